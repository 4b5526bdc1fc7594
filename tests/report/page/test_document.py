"""The page without a browser: complete, self-contained, and without markup from records."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from prunelab.report import aggregate, read_study, to_page

if TYPE_CHECKING:
    from conftest import StudyFolder


def page_of(study: StudyFolder) -> str:
    return to_page(aggregate(read_study(study.path)), "outputs/my study")


def content_of(page: str) -> dict[str, Any]:
    (content,) = re.findall(r'<script id="content" type="application/json">(.*?)</script>', page)
    return json.loads(content)


def test_rows_have_what_is_drawn(study: StudyFolder) -> None:
    for seed, (top1, width) in enumerate(((0.90, 8), (0.92, 6))):
        plan = {"widths": {"layer1": [16, width]}, "dropped_blocks": [], "digest": "0", "masked_vs_pruned": 0}
        study.finished("l1", seed, top1=top1, plan=plan)
    study.write("l1-0.5-0/curves.csv", "phase,epoch,val/top1\nlearning,1,0.5\nrecovery,1,\nrecovery,2,0.7\n")

    study.write(
        "l1-0.5-1/search.csv",
        "phase,evaluation,kept,score,best\nsearch,1,0.5,0.25,0.25\nsearch,2,0.49,0.2,0.25\n",
    )

    (table,) = content_of(page_of(study))["tables"]
    (row,) = table["rows"]

    assert row["searches"] == [{"seed": 1, "phase": "search", "kept": [0.5, 0.49], "score": [0.25, 0.2]}]
    assert row["top1"] == [0.91, 0.0141421]
    assert row["costs"]["flops"] == [40_000_000, 0]
    assert row["front"] == ["flops", "forward_ms_batch_1", "forward_ms_batch_64", "params"]
    assert (table["groups"], row["kept"]) == (["layer1"], [[16, 7]])
    assert row["curves"] == [
        {"phases": [["learning", 1], ["recovery", 2]], "figures": {"val/top1": [0.5, None, 0.7]}},
        None,
    ]
    assert table["baseline"]["costs"]["forward_ms_batch_64"] == [40, 0]


def test_every_run_has_the_command_that_repeats_it(study: StudyFolder) -> None:
    study.finished("l1", git={"revision": "abc", "dirty": True})

    (row,) = content_of(page_of(study))["tables"][0]["rows"]

    (run,) = row["runs"]
    assert run["command"] == "prunelab-again 'outputs/my study/l1-0.5-0/record.json'"
    assert run["revision"] == "abc with changes"
    assert "epochs: 5" in row["settings"]


def test_text_of_records_is_not_markup(study: StudyFolder) -> None:
    study.finished("</script><script>alert(1)</script>", key="a")

    page = page_of(study)

    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert content_of(page)["tables"][0]["rows"][0]["method"] == "</script><script>alert(1)</script>"


def test_nothing_is_loaded_from_elsewhere(study: StudyFolder) -> None:
    study.finished("l1")

    page = page_of(study)

    assert "default-src 'none'" in page
    own, _, _ = page.partition("plotly.js v")
    assert not re.search(r"""(src|href)=|@import|url\(""", own)
    assert not re.search(r"@[A-Z]+@", own)


def test_runs_missing_in_the_tables_are_listed(study: StudyFolder) -> None:
    study.failed("l1")
    study.write("cut/record.json", '{"schema": 1, "status": "fin')
    study.write("running/config.yaml", "seed: 0\n")

    content = content_of(page_of(study))

    assert content["tables"][0]["rows"] == []
    assert "out of memory" in content["tables"][0]["failures"][0]
    assert "was it cut off?" in content["leftOut"][0]
    assert "running" in content["unfinished"][0]
