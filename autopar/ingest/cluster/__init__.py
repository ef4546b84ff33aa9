"""Read clusters from the world: what machines and schedulers print -> cluster specs.

`gather` reads files, `select` picks nodes by kind of GPU, `draft_of` makes a spec of one kind,
`spec_text` writes it with how each field came about.
"""

from autopar.ingest.cluster.draft import Draft, Given, Notes, count
from autopar.ingest.cluster.findings import Findings
from autopar.ingest.cluster.links import links
from autopar.ingest.cluster.names import Catalogue
from autopar.ingest.cluster.select import Kind, Selection

__all__ = ["draft_of"]


def draft_of(
    kind: Kind, findings: Findings, selection: Selection, catalogue: Catalogue, given: Given
) -> Draft:
    """Return the spec of the nodes with one kind of GPU.

    Raises SpecError, which says what to do, where the nodes do not make one cluster.
    """
    notes = Notes()
    counts = count(kind, findings, catalogue, given, notes)
    found = links(kind, counts, catalogue, given, notes)
    leaves = {} if findings.network is None else findings.network.leaves
    switches = {leaves[node.name] for node in counts.nodes if node.name in leaves}
    if len(switches) > 1:
        notes.warnings.append(
            f"the nodes are below {len(switches)} leaf switches; the spec has one bandwidth "
            "between any two nodes, and no oversubscription"
        )
    return Draft(
        name=given.name or f"{counts.num_nodes}x{counts.gpus_per_node}-{kind.gpu}",
        gpu=kind.gpu,
        num_nodes=counts.num_nodes,
        gpus_per_node=counts.gpus_per_node,
        gpus_per_domain=counts.gpus_per_domain,
        links=found,
        nodes=tuple(node.name for node in counts.nodes),
        sources=findings.sources,
        said=tuple(notes.said),
        remarks=(*selection.warnings, *notes.warnings),
        doubts=notes.doubts,
    )
