"""Fixtures of the core's tests that the test of the study uses."""

from tests.lglm_core.conftest import encode, learnable, one_thread, shape_embeddings, write_dataset

__all__ = ["encode", "learnable", "one_thread", "shape_embeddings", "write_dataset"]
