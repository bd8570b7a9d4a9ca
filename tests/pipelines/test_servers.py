import socket

import pytest

from lglm_core.errors import InputError
from pipelines.servers import refuse_unreachable, without_secrets


def test_an_address_without_an_answer_is_refused_as_it_was_given():
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=r"^what was given: no such server answers there \("):
            refuse_unreachable(url, "what was given", "such server")


def test_a_text_that_is_no_url_is_refused_too():
    with pytest.raises(InputError, match="nonsense"):
        refuse_unreachable("nonsense", "nonsense", "server")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:secret@head:8265/x?y=1", "http://head:8265/x?y=1"),
        ("http://head:8265", "http://head:8265"),
    ],
)
def test_a_shown_url_holds_no_secret(url: str, shown: str):
    assert without_secrets(url) == shown
