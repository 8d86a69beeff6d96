"""What a report lacks or hides, as far as its ranges and what was measured tell."""

from __future__ import annotations

import numpy as np

from dsprof import arrays as at
from dsprof import findings
from dsprof.answers.rank_requests import RankRequests
from dsprof.answers.stages import Stages
from dsprof.answers.warm_up import ColdTime
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.findings import Finding
from dsprof.ground.patterns import first_found, near
from dsprof.measures.module_kernels import ModuleKernels
from dsprof.measures.range_sums import RangeSums
from dsprof.measures.tally import Tally
from dsprof.model.baseline import node_tracing
from dsprof.rules.rules import Rules
from dsprof.trace import PythonSamples, Selection, pid_of

#: Share of launches without a kernel below which nothing is said: the rim of every capture loses a few.
_LOST_SHARE = 0.001
#: So many sentences on lost records, which are by process, are said.
_MOST_LOST = 8
#: So many warm-ups are named.
_MOST_WARM = 4


def check(
    tree: RangeTree,
    staged: StageRanges,
    rules: Rules,
    samples: PythonSamples,
    seen: Tally,
    enclosed: RangeSums,
    born: ModuleKernels,
) -> list[Finding]:
    """What a reader of the tables must know: what the report lacks or hides, lost data, ranges that are no stages."""
    said = [one for x in tree.report.messages for one in findings.nsys_means(x.kind, x.text, x.times, x.number)]
    found = [*_lacks(tree, seen), *said, *_lost(seen)]
    if born.unborn:
        found.append(findings.unborn_nodes(born.unborn))
    if len(tree.ranges) and not len(staged.rows):
        found.append(findings.no_stages(tuple(rules.stages)))
    found += [*_cut(tree, staged, rules), *_tracing(rules, seen), *_unfitting(tree, staged, rules)]
    if samples.unread is not None:
        found.append(findings.no_python(samples.unread))
    straddling = np.where(tree.ranges.cut, 0, enclosed.of_all()["straddling_calls"])
    if across := int((straddling > 0).sum()):
        found.append(findings.straddling(int(straddling.sum()), across))
    return found


def requests_apart(requests: RankRequests) -> list[Finding]:
    """Requests of several ranks of which nothing tells whether they are one."""
    return [findings.requests_apart(requests.apart)] if requests.apart else []


def warm_ups(staged: StageRanges, stages: Stages, cold: ColdTime) -> list[Finding]:
    """Which stages were a warm-up, and what made them one."""
    rows, kinds = np.flatnonzero(stages.warm_up.warm).tolist(), tuple(cold.stages)
    alike: dict[tuple[str, str], list[int]] = {}
    for row in rows[:_MOST_WARM]:
        alike.setdefault((staged.names[stages.code[row]], kinds[stages.warm_up.by[row]]), []).append(row)
    examples = []
    for (stage, kind), of in alike.items():
        which = ", ".join(str(stages.instance[row]) for row in of)
        more = ", ".join(f"{stages.warm_up.more[row] / 1e6:.2f}" for row in of)
        examples.append(f"{stage} {which} ({kind}, +{more} ms)")
    return [findings.warm_up(examples, max(len(rows) - _MOST_WARM, 0))] if rows else []


def _cut(tree: RangeTree, staged: StageRanges, rules: Rules) -> list[Finding]:
    """What reaches over the edges of the window that was selected."""
    cut = tree.ranges.cut
    if not cut.any():
        return []
    steps, requests = staged.matching(rules.step) & cut, cut[staged.requests]
    return [findings.cut_ranges(int(cut.sum()), int(staged.cut.sum()), int(steps.sum()), int(requests.sum()))]


def _unfitting(tree: RangeTree, staged: StageRanges, rules: Rules) -> list[Finding]:
    """The patterns of the user's own that make no range a stage or a step."""
    usual, codes = Rules(), set(at.distinct(staged.of_range).tolist())
    lost = [
        (f"Stage {stage}", pattern)
        for code, (stage, pattern) in enumerate(rules.stages.items())
        if code not in codes and usual.stages.get(stage) != pattern
    ]
    if rules.step != usual.step and not len(staged.steps):
        lost.append(("--step", rules.step))
    if not lost or not len(tree.ranges):
        return []
    names = [tree.names[code] for code in at.distinct(tree.ranges.name.astype(np.int64)).tolist()]
    found = []
    for what, pattern in lost:
        fitted = first_found([pattern], names).count(0)
        found.append(findings.unfitting(what, pattern, len(names), fitted, [] if fitted else near(pattern, names)))
    return found


def _lacks(tree: RangeTree, seen: Tally) -> list[Finding]:
    """What this report lacks or hides, whatever its stages."""
    found, report = [], tree.report
    some = report.selection != Selection()
    if not len(tree.ranges):
        found.append(findings.not_selected("NVTX ranges") if some else findings.no_nvtx())
    if not seen.kernels and not seen.memops:
        found.append(findings.not_selected("GPU operations") if some else findings.no_cuda())
    elif not seen.calls:
        found.append(findings.no_api())
    impossible = tree.impossible
    if impossible.times:
        found.append(findings.impossible_times(impossible.times))
    if impossible.sizes:
        found.append(findings.impossible_sizes(impossible.sizes))
    if seen.graphs:
        found.append(findings.graphs_hidden(seen.graphs))
    if truncated := int(tree.ranges.truncated.sum()):
        found.append(findings.truncated_ranges(truncated))
    if names := int((~tree.summed).sum()):
        found.append(findings.left_out(names, int((~tree.summed)[tree.groups[1]].sum())))
    return found


def _tracing(rules: Rules, seen: Tally) -> list[Finding]:
    """What recording did to what was recorded, as far as that is known."""
    found = list(map(findings.no_baseline, rules.baseline.problems if rules.baseline is not None else ()))
    if seen.replays:
        by_nodes = node_tracing(rules.baseline)
        found.append(
            findings.nodes_traced(
                seen.replays, seen.nodes, by_nodes.stretch_ns, by_nodes.source, by_nodes.measured_here
            )
        )
    return found


def _lost(seen: Tally) -> list[Finding]:
    """Launches without an operation and operations without a launch, by process."""
    found: list[Finding] = []
    others = any(seen.lost.get(process, 0) < count for process, count in seen.expected.items())
    for process in sorted(seen.processes) if seen.calls else ():
        if len(found) >= _MOST_LOST:
            return [*found, findings.more_lost(len(seen.processes))]
        lost, expected = seen.lost.get(process, 0), seen.expected.get(process, 0)
        if lost == expected > 0 and others:
            found.append(findings.lost_rank(lost, pid_of(process)))
        elif lost > _LOST_SHARE * expected:
            found.append(findings.lost_kernels(lost, expected, pid_of(process)))
        if orphans := seen.orphans.get(process, 0):
            found.append(findings.orphan_operations(orphans, pid_of(process)))
    return found
