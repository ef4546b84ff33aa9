"""The kinds of violation, and how many of one kind are worth printing."""

from collections.abc import Iterator, Mapping, Sequence

from autopar.results import Violation

SHOWN = 3  # of one kind; the rest is counted

# Stable names: tests, reports and users' scripts match on them.
KINDS: Mapping[str, str] = {
    "degrees against stages": "pp or replicas is not the number of stages or replicas listed",
    "stage out of order": "a stage's index is not its position",
    "stage without layers": "a stage holds no layer",
    "stage without GPUs": "a stage has no GPU",
    "layer out of range": "the model has no such layer",
    "layer lost": "no stage holds the layer",
    "layer doubled": "the layer is held more than once",
    "layers not consecutive": "a stage skips a layer",
    "layers out of order": "layers do not ascend along the pipeline",
    "GPU out of range": "the cluster has no such GPU",
    "GPU doubled in a stage": "one stage lists a GPU twice",
    "GPU in two stages": "two stages of one replica share a GPU",
    "GPU in two replicas": "two replicas share a GPU",
    "GPU in two roles": "prefill and decode share a GPU",
    "prefill too busy": "its replicas work more of the time than is allowed",
    "grid identity broken": "tp * cp * attn_dp, ep * etp * spread and the stage's GPUs differ",
    "uneven heads": "tp does not divide the heads and the dense columns of every layer",
    "uneven columns": "etp does not divide the columns of an expert",
    "uneven experts": "ep does not divide the experts",
    "uneven experts per rank": "an expert rank holds more or fewer experts of a layer than others",
    "batch out of range": "a scheduler takes no such batch, or the workload gives another",
    "chunks out of range": "prompts cannot be computed in so many parts",
    "replica unlike the first": "a replica without placement has other stages than the first",
    "expert out of range": "the model has no such expert",
    "expert in a layer without experts": "the layer is dense or has no feed-forward",
    "copy out of range": "the plan has no such replica",
    "shard out of range": "etp gives no such shard",
    "expert shard lost": "no GPU holds the shard",
    "expert shard doubled": "the shard is held more than once",
    "expert shard outside its stage": "the shard's GPU is not one of its layer's stage",
    "expert shards apart": "shards of one expert are not one group of etp ranks",
    "expert shards swapped": "shards of one expert are not in rank order",
    "layer over several expert grids": "experts of one layer are in different grids of the stage",
    "placement in a dense model": "the model has no experts to place",
    "idle GPU": "the coverage wants every GPU to work",
    "several replicas under partition": "a partition is one copy of the model",
    "several shards on one GPU": "a partition puts one expert shard on a GPU",
    "GPU without a shard": "a partition puts one expert shard on every GPU",
    "tensor group outside its container": "a group of tp or etp ranks leaves its node or domain",
    "expert shards outside their container": "shards of one expert are in two nodes or domains",
    "stage outside its container": "expert all-to-all of the stage leaves its node or domain",
    "context parallel size over its limit": "cp is more than the scenario allows",
    "too many expert grids": "spread is more than the scenario allows",
    "memory over capacity": "a GPU holds more than it may",
    "TTFT over limit": "the time to first token is too long",
    "TPOT over limit": "the time per output token is too long",
    "throughput under target": "the plan produces too few tokens per second",
    "throughput per GPU under target": "the plan produces too few tokens per second and GPU",
    "rule broken": "a rule of the scenario does not hold",
    "falsified metric": "a number that the plan states about itself is not what it gives",
    "falsified degrees": "a degree that the header states is not that of the stages written out",
    "falsified pool": "a stage names a pool that the cluster does not have",
    "falsified proof": "status, bound and gap that a plan states contradict each other or the plan",
}


def found(kind: str, messages: Sequence[str]) -> Iterator[Violation]:
    """Yield the first few violations of a kind, and one that counts the others."""
    assert kind in KINDS, kind
    for message in messages[:SHOWN]:
        yield Violation(kind, message)
    if len(messages) > SHOWN:
        yield Violation(kind, f"and {len(messages) - SHOWN:,} more of this kind")
