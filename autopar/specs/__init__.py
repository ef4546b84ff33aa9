"""What is legal input: one pydantic model per kind of document."""

from autopar.specs.base import SCHEMA_VERSION, Document, Spec
from autopar.specs.cluster import Cluster, Gpu, Link, Links
from autopar.specs.llm import LLM, Architecture
from autopar.specs.plan import Claim, DegreesSpec, PlacementSpec, PlanSpec, ReplicaSpec, StageSpec
from autopar.specs.recipe import CpSatParameters, Recipe, RulePack, RuleSpec
from autopar.specs.scenario import Declared, Requirements, Scenario
from autopar.specs.workload import Workload

__all__ = [
    "LLM",
    "SCHEMA_VERSION",
    "Architecture",
    "Claim",
    "Cluster",
    "CpSatParameters",
    "Declared",
    "DegreesSpec",
    "Document",
    "Gpu",
    "Link",
    "Links",
    "PlacementSpec",
    "PlanSpec",
    "Recipe",
    "ReplicaSpec",
    "Requirements",
    "RulePack",
    "RuleSpec",
    "Scenario",
    "Spec",
    "StageSpec",
    "Workload",
]
