"""Commands that send requests on to servers: a plan holds nothing of them.

Sources: console scripts and modules of vllm-router 0.1.17 and sglang-router 0.3.2, whose
`launch_server` and `smg server` start servers too and are no routers alone; TensorRT-LLM 1.4,
commands/serve.py.
"""

from collections.abc import Sequence
from itertools import pairwise

# A program, and the word behind it that makes it a router; - is any flag. A name alone may be that
# of a package, a host or a container, as in `pip install vllm-router`.
_STARTS = {
    "vllm-router": "-",
    "vllm_router.launch_router": "-",
    "sglang_router.launch_router": "-",
    "sglang_router": "launch",
    "sglang-router": "launch",
    "smg": "launch",
    "amg": "launch",
    "trtllm-serve": "disaggregated",
}


def router_in(words: Sequence[str]) -> str:
    """Return the name of the router that words start; empty where they start none."""
    for word, behind in pairwise(words):
        name = word.rpartition("/")[2]
        expected = _STARTS.get(name, "")
        if expected == "-" and behind.startswith("-"):
            return name
        if expected and behind == expected:
            return f"{name} {behind}"
    return ""
