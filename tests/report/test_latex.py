from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from prunelab.report import aggregate, read_study, to_latex
from prunelab.report.latex import escaped

if TYPE_CHECKING:
    from conftest import StudyFolder


def test_a_table_with_booktabs(study: StudyFolder) -> None:
    for seed, top1 in enumerate((0.90, 0.92)):
        study.finished("bn_gamma", seed, top1=top1)
        study.finished("l1", seed, keep=0.3, top1=0.8)

    text = to_latex(aggregate(read_study(study.path)))

    assert text.count(r"\midrule") == 3  # below the header, and above each of the two budgets
    assert r"bn\_gamma & 50 \% FLOPs & 2 & 95.00 $\pm$ 0.00" in text
    assert r"& 91.00 $\pm$ 1.41 & $-$4.00 $\pm$ 1.41 &" in text
    assert r"\caption{resnet20 on digits. All rows: levels filter" in text
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("50 % of_it", r"50 \% of\_it"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("a & b # $1 ~ ^", r"a \& b \# \$1 \textasciitilde{} \textasciicircum{}"),
        ("[x] <1>", r"{[}x{]} \textless{}1\textgreater{}"),
        ("剪枝", "??"),
    ],
)
def test_text_is_printed_literally(text: str, latex: str) -> None:
    assert escaped(text) == latex


def test_a_study_without_rows_has_no_table(study: StudyFolder) -> None:
    study.failed("l1")

    assert "tabular" not in to_latex(aggregate(read_study(study.path)))
