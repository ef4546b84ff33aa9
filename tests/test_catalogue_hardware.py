"""The GPUs and clusters of the catalogue: they load, their figures agree with other sources."""

import re
from functools import cache

import pytest

import autopar
from autopar.catalog import names, read_document
from autopar.resolve import Library
from autopar.shelves import KINDS
from autopar.specs import Cluster, Gpu

# Of the 512-GPU plan's document, which names no product; test_catalog.py covers them.
FICTIONAL = {"doc-400t-64gb", "doc-8x64"}
GPUS = [name for name in names("gpu") if name not in FICTIONAL]
CLUSTERS = [name for name in names("cluster") if name not in FICTIONAL]

# Dense TFLOPS in BF16, FP8 and FP4, then TB/s, from pages that the catalogue's own files do not
# use. NVIDIA prints sparse rates, twice these.
VERDA = "verda.com/blog/gb300-nvl72-architecture"
KLOCKWOOD = "glennklockwood.com/garden/processors"
VERL = "volcengine/verl at commit 02cf355f, verl/utils/flops_counter.py"
WATKINS = "jaredwatkins.com/research/ai-accelerators/amd-instinct"
THUNDER = "thundercompute.com/blog/nvidia-a100-specs-full-guide"
H100_SHEET = "lzwjava.github.io/nvidia-h200-gpu-specs-en, sparse FP8 rates halved"
FIGURES = [
    ("a100-sxm-80gb", 312, None, None, 2.039, f"{KLOCKWOOD}/A100"),
    ("a100-sxm-40gb", 312, None, None, 1.555, THUNDER),
    ("a100-pcie-80gb", 312, None, None, 1.935, THUNDER),
    ("h100-sxm-80gb", 989, 3958 / 2, None, 3.35, f"{H100_SHEET}; BF16: {VERL}"),
    ("h100-nvl-94gb", None, None, None, 3.93, "grokipedia.com/page/210100120"),
    ("v100-sxm-32gb", 125, None, None, None, "grokipedia.opelly.me/articles/nvidia-tesla-v100"),
    ("h200-sxm-141gb", 989, 3958 / 2, None, 4.8, f"{H100_SHEET}; BF16: {VERL}"),
    ("h800-sxm-80gb", 989, None, None, None, VERL),
    ("h20-sxm-96gb", 148, 296, None, 4.0, "zangshuxian.com/new/674733024499207168, INT8 as FP8"),
    ("b200-sxm-180gb", 2250, 4500, 9000, 7.7, VERDA),
    ("b300-sxm-288gb", 2250, 4500, 14000, 7.7, VERDA),
    ("gb200-186gb", 2500, 5000, 10000, 8.0, f"{KLOCKWOOD}/B200"),
    ("gb300-288gb", 2500, 5000, 15000, 8.0, VERDA),
    ("l40s-48gb", 362.05, None, None, None, VERL),
    ("rtx-4090-24gb", 165.2, 330.3, None, 1.01, "hmc-tech.com, RTX 4090"),
    ("rtx-5090-32gb", 838 / 4, None, 3352 / 2, 1.792, "Linux Format, May 2025, RTX 5090"),
    ("mi300x-192gb", 1300, 2600, None, 5.3, f"{WATKINS}/mi300-series"),
    ("mi355x-288gb", 2516, 5033, 10066, 8.0, "AMD's data sheet, from memory"),
    ("ascend-910c-128gb", 780, None, None, 3.2, "SemiAnalysis in avalanchenoticias.com.br"),
]

# GB/s both ways per GPU, as vendors print it: twice what a link of the catalogue carries.
BOTH_WAYS = {
    "a100-sxm": 600,  # flashgenius.net/guides/ai-server-systems-amp-platform-design-ncp-aii-guide
    "h100-sxm": 900,  # the same page
    "h200-sxm": 900,  # mlcommons/inference_results_v4.1, H200-SXM-141GBx8_TRT_MaxQ.json
    "h800-sxm": 400,  # tumgag.com/tag/nvidia%20h100
    "gh200": 900,  # NVIDIA's data sheet, from memory
    "v100-sxm": 300,  # NVIDIA's data sheet, from memory
    "h20-sxm": 900,  # willitrunai.com/es/gpus/h20-96gb
    "b200-sxm": 1800,  # flashgenius.net, the same page
    "b300-sxm": 1800,  # verda.com/blog/gb300-nvl72-architecture
    "gb200": 1800,  # the same page
    "gb300": 1800,  # the same page
    "mi300x": 896,  # geektopia.es, AMD's announcement of 2023-06-13
    "l40s": 64,  # PCIe 4.0: 16 GT/s x 16 lanes / 8 bits, both ways
    "rtx-4090": 64,
    "rtx-5090": 128,  # PCIe 5.0: 32 GT/s x 16 lanes / 8 bits, both ways
    "rtx-pro-6000": 128,
}

SLOWER_TO_FASTER = [  # in BF16, within one vendor's list
    ("l4-24gb", "l40s-48gb"),
    ("h20-sxm-96gb", "a100-sxm-80gb"),
    ("a100-sxm-80gb", "h100-pcie-80gb"),
    ("v100-sxm-32gb", "a100-sxm-40gb"),
    ("h100-pcie-80gb", "h100-nvl-94gb"),
    ("h100-nvl-94gb", "h100-sxm-80gb"),
    ("h100-sxm-80gb", "b200-sxm-180gb"),
    ("b200-sxm-180gb", "gb200-186gb"),
    ("rtx-4090-24gb", "rtx-5090-32gb"),
    ("rtx-5090-32gb", "rtx-pro-6000-96gb"),
    ("mi300x-192gb", "mi355x-288gb"),
    ("ascend-910b-64gb", "ascend-910c-128gb"),
]

RENTED = {
    *("a100-sxm", "a100-pcie", "h100-sxm", "h100-pcie", "h200-sxm", "h800-sxm", "h20-sxm"),
    *("h100-nvl", "gh200", "v100-sxm"),
    *("b200-sxm", "b300-sxm", "gb200", "gb300", "l40s", "l4", "rtx-pro-6000", "rtx-4090"),
    *("rtx-5090", "mi300x", "mi325x", "mi355x", "ascend-910b", "ascend-910c"),
}

MEASURED_TFLOPS = {  # the best that a dense kernel with BF16 or FP16 input and FP32 sums reached
    "ascend-910b-64gb": 315.36,  # zzc0721/torch-performance-test-data, issue 109: 4096 x 4096
    "rtx-4090-24gb": 136,  # DefTruth/faster-prefill-attention, release v0.0.1: attention
}


@cache
def gpu_of(name: str) -> Gpu:
    return Gpu.model_validate(Library(()).find(KINDS["gpu"], name, None, "test").data)


@cache
def cluster_of(name: str) -> Cluster:
    return Cluster.model_validate(Library(()).find(KINDS["cluster"], name, None, "test").data)


def test_the_catalogue_holds_what_people_rent():
    present = {re.sub(r"-\d+gb$", "", name) for name in GPUS}
    assert present >= RENTED


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_has_its_files_name_its_sources_and_what_the_analytic_model_needs(name):
    gpu = gpu_of(name)
    assert gpu.name == name
    assert gpu.description
    assert all(len(source) > 15 for source in gpu.sources)
    assert gpu.sources
    assert gpu.memory_bandwidth_bytes_per_s is not None


@pytest.mark.parametrize("name", GPUS)
def test_memory_lies_between_the_decimal_and_the_binary_reading_of_the_products_size(name):
    size = int(re.search(r"(\d+)gb$", name)[1])
    assert size * 1e9 <= gpu_of(name).memory_bytes <= size * 2**30


@pytest.mark.parametrize("name", GPUS)
def test_a_lower_precision_computes_faster_by_the_factor_of_its_width(name):
    gpu = gpu_of(name)
    if gpu.fp8_flops_per_s is not None:
        assert gpu.fp8_flops_per_s == pytest.approx(2 * gpu.peak_flops_per_s, rel=0.05)
    if gpu.fp4_flops_per_s is not None:
        assert gpu.fp8_flops_per_s is not None
        # Blackwell Ultra and RTX 5090 do more than double: 3.11 in B300, 4 where FP8 is halved
        assert 1.95 <= gpu.fp4_flops_per_s / gpu.fp8_flops_per_s <= 4.05


@pytest.mark.parametrize("name", GPUS)
def test_rates_are_in_the_right_unit(name):
    """FLOPs per byte of memory traffic and the time to read all memory both span one decade."""
    gpu = gpu_of(name)
    assert 30 < gpu.peak_flops_per_s / gpu.memory_bandwidth_bytes_per_s < 500
    assert 0.015 < gpu.memory_bytes / gpu.memory_bandwidth_bytes_per_s < 0.1  # seconds
    if gpu.power_w is not None:
        assert 0.2e12 < gpu.peak_flops_per_s / gpu.power_w < 3e12


@pytest.mark.parametrize(("slower", "faster"), SLOWER_TO_FASTER)
def test_peaks_rank_as_the_products_do(slower, faster):
    assert gpu_of(slower).peak_flops_per_s < gpu_of(faster).peak_flops_per_s


@pytest.mark.parametrize(("name", "bf16", "fp8", "fp4", "tb_per_s", "source"), FIGURES)
def test_figures_equal_those_of_another_source(name, bf16, fp8, fp4, tb_per_s, source):
    gpu = gpu_of(name)
    ours = (gpu.peak_flops_per_s, gpu.fp8_flops_per_s, gpu.fp4_flops_per_s)
    for rate, theirs in zip(ours, (bf16, fp8, fp4), strict=True):
        if theirs is not None:
            assert rate == pytest.approx(theirs * 1e12, rel=0.01), source
    if tb_per_s is not None:
        assert gpu.memory_bandwidth_bytes_per_s == pytest.approx(tb_per_s * 1e12, rel=0.01), source


@pytest.mark.parametrize(("name", "tflops"), MEASURED_TFLOPS.items())
def test_a_measured_rate_is_below_the_peak_and_near_it(name, tflops):
    assert 0.75 < tflops * 1e12 / gpu_of(name).peak_flops_per_s < 1


@pytest.mark.parametrize("name", GPUS)
def test_a_price_comes_with_the_page_and_the_day(name):
    dated = [s for s in gpu_of(name).sources if s.startswith("usd_per_hour")]
    assert (gpu_of(name).usd_per_hour is not None) == bool(dated)
    assert all(re.search(r"\b20\d\d-\d\d-\d\d\b", source) for source in dated)


def test_every_gpu_is_in_a_cluster_and_every_cluster_has_a_gpu_of_the_catalogue():
    used = {cluster_of(name).gpu.name for name in CLUSTERS}
    assert used == set(GPUS)


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_has_its_files_name_its_sources_and_links(name):
    cluster = cluster_of(name)
    assert cluster.name == name
    assert cluster.description
    assert len(cluster.sources) >= 2
    assert cluster.links is not None
    own = read_document("cluster", name)
    assert own["description"]  # its own, not that of its base
    assert "base" in own or "sources" in own


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_clusters_name_says_its_size(name):
    """NxhgxG and Nx8-G: N nodes of 8; Nxrack-nvl72: N racks of 72; NxG: one node of N."""
    cluster = cluster_of(name)
    count, rest = re.fullmatch(r"(\d+)x(.+)", name).groups()
    if re.match(r"hgx-|8-", rest):
        expected = (int(count) * 8, 8)
    elif found := re.search(r"(?:nvl|cloudmatrix)(\d+)$", rest):
        expected = (int(count) * int(found[1]), int(found[1]))
    else:
        expected = (int(count), int(count))
    assert (cluster.num_gpus, cluster.domain_gpus) == expected


@pytest.mark.parametrize("name", CLUSTERS)
def test_links_get_slower_outwards(name):
    links = cluster_of(name).links
    levels = (links.node, links.domain, links.fabric)
    rates = [link.bandwidth_bytes_per_s for link in levels]
    assert rates == sorted(rates, reverse=True)
    latencies = [link.latency_us for link in levels]
    assert latencies == sorted(latencies)
    assert latencies[0] > 0
    assert latencies[-1] < 100


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_the_scale_up_link_is_per_direction(kind):
    """Half of what the vendor prints, on every cluster of the GPU."""
    of_kind = [c for c in map(cluster_of, CLUSTERS) if c.gpu.name.startswith(f"{kind}-")]
    assert of_kind
    for cluster in of_kind:
        assert cluster.links.node.bandwidth_bytes_per_s == BOTH_WAYS[kind] * 1e9 / 2


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_fabric_is_the_nic_that_the_description_states(name):
    cluster = cluster_of(name)
    stated = re.search(r"one (\d+) Gbit/s NIC per [GN]PU", cluster.description)
    if cluster.num_nodes > 1:
        assert stated
    if stated:
        assert cluster.links.fabric.bandwidth_bytes_per_s == int(stated[1]) * 1e9 / 8


@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_of_one_kind_of_node_differ_in_size_only(name):
    cluster, node = cluster_of(name), name.partition("x")[2]
    same = [cluster_of(other) for other in CLUSTERS if other.partition("x")[2] == node]
    assert all((other.links, other.gpu) == (cluster.links, cluster.gpu) for other in same)


@pytest.mark.parametrize("kind", ["gpu", "cluster", "llm"])
def test_what_nobody_checked_is_an_assumption_which_answers_tell(kind):
    for name in names(kind):
        sources = read_document(kind, name).get("sources", [])
        assert not [text for text in sources if "from memory" in text or "not checked" in text]


def test_an_answer_and_a_verdict_tell_what_the_parts_assume():
    parts = {"llm": "llama-3.1-8b", "cluster": "1x8-ascend-910b", "workload": "chat-1k-256"}
    scenario = autopar.load_scenario(None, parts=parts)
    answer = autopar.solve(scenario, diagnose=False)
    assert answer.plan is not None
    for notes in (answer.notes, autopar.verify(scenario, answer.plan).notes):
        told = [note for note in notes if note.startswith("assumed in ")]
        assert [note.partition(":")[0] for note in told] == [
            "assumed in cluster 1x8-ascend-910b",
            "assumed in gpu ascend-910b-64gb",
        ]
        assert "memory bandwidth of 1.6 TB/s: from memory" in told[1]
