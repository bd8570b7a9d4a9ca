import pytest

pytest.register_assert_rewrite("tests.lglm_core.storage.contract")
