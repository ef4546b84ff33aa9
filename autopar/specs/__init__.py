"""What is legal input: one pydantic model per kind of document."""

from autopar.specs.architecture import (
    Architecture,
    DenseFeedForward,
    ExpertFeedForward,
    GroupedQueryAttention,
    LatentAttention,
    Layer,
    LayerRun,
    LinearAttention,
    NextTokenPrediction,
    Precision,
)
from autopar.specs.bands import CostBands, ErrorBands, MetricBand
from autopar.specs.base import SCHEMA_VERSION, Document, Spec
from autopar.specs.cluster import Cluster, Link, Links
from autopar.specs.engine import Engine
from autopar.specs.factors import CostFactors
from autopar.specs.gpu import Gpu
from autopar.specs.llm import LLM, Precisions
from autopar.specs.measurement import (
    Layout,
    Measurements,
    ServingCase,
    ServingRow,
    TrainingCase,
    TrainingRow,
)
from autopar.specs.plan import (
    Claim,
    DegreesSpec,
    LayoutSpec,
    PlacementSpec,
    PlanSpec,
    ReplicaSpec,
    RolesSpec,
    StageSpec,
)
from autopar.specs.recipe import CpSatParameters, Recipe, RulePack, RuleSpec
from autopar.specs.scenario import Declared, Requirements, Scenario
from autopar.specs.workload import Workload

__all__ = [
    "LLM",
    "SCHEMA_VERSION",
    "Architecture",
    "Claim",
    "Cluster",
    "CostBands",
    "CostFactors",
    "CpSatParameters",
    "Declared",
    "DegreesSpec",
    "DenseFeedForward",
    "Document",
    "Engine",
    "ErrorBands",
    "ExpertFeedForward",
    "Gpu",
    "GroupedQueryAttention",
    "LatentAttention",
    "Layer",
    "LayerRun",
    "Layout",
    "LayoutSpec",
    "LinearAttention",
    "Link",
    "Links",
    "Measurements",
    "MetricBand",
    "NextTokenPrediction",
    "PlacementSpec",
    "PlanSpec",
    "Precision",
    "Precisions",
    "Recipe",
    "ReplicaSpec",
    "Requirements",
    "RolesSpec",
    "RulePack",
    "RuleSpec",
    "Scenario",
    "ServingCase",
    "ServingRow",
    "Spec",
    "StageSpec",
    "TrainingCase",
    "TrainingRow",
    "Workload",
]
