"""The two roles of a disaggregated service, each as a scenario of its own.

A request is a prompt that a *prefill* replica computes and an answer that a *decode* replica
writes; the cache of the prompt travels from one to the other. Each role is a scenario with the
requirements that it alone answers for. What both answer for together, rates and GPUs, is left to
whoever looks at the pair.
"""

from functools import lru_cache
from typing import Literal, get_args

from autopar.specs.scenario import Scenario
from autopar.specs.workload import RoleWorkload, Workload

Role = Literal["prefill", "decode"]
ROLES: tuple[Role, ...] = get_args(Role)  # in the order in which a request meets them


def role_scenario(scenario: Scenario, role: Role) -> Scenario:
    """Return what one role answers for: its workload, its time limit, any number of GPUs.

    scenario: with workload phase `disaggregated`.
    """
    limits = scenario.requirements
    requirements = limits.model_copy(
        update={
            "coverage": "up_to",
            "min_tokens_per_s": None,
            "min_tokens_per_s_per_gpu": None,
            "max_ttft_us": limits.max_ttft_us if role == "prefill" else None,
            "max_tpot_us": limits.max_tpot_us if role == "decode" else None,
        }
    )
    return scenario.model_copy(
        update={
            # A frozen model has a hash, which pyright does not see.
            "workload": _role_workload(scenario.workload, role),  # pyright: ignore[reportArgumentType]
            "requirements": requirements,
            "recipe": scenario.recipe.model_copy(update={"objectives": _objectives(role)}),
        }
    )


def requests_per_token(workload: Workload, role: Role) -> float:
    """Return the requests that one token of a role's own rate stands for.

    The rate of prefill counts input tokens. Decode makes all output tokens but the first, which
    prefill has made.
    """
    if role == "prefill":
        return 1 / (workload.input_tokens or 1)
    return 1 / max((workload.output_tokens or 1) - 1, 1)


@lru_cache(maxsize=16)
def _role_workload(workload: Workload, role: Role) -> RoleWorkload:
    changes: dict[str, str | None] = {"phase": role}
    if role == "prefill":
        changes |= {"output_tokens": None, "speculation": None}
    return RoleWorkload.model_validate(workload.model_dump(by_alias=True) | changes)


def _objectives(role: Role) -> tuple[str, ...]:
    return ("throughput", "ttft" if role == "prefill" else "tpot", "traffic", "memory")
