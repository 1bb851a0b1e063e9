"""Rows laid out for workers that fit and judge, and save nothing: what `experiment` and `feasibility` share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelmill.build.builder import start_template
from modelmill.build.plan import Plan, Step, has_several_classes, plan_build
from modelmill.build.segment import tests_of, write_tests
from modelmill.build.work import Setup
from modelmill.compute.compute import Limits
from modelmill.compute.local import LocalCompute
from modelmill.data.build_table import BuildTable, write_build_table
from modelmill.data.snapshot import Segments
from modelmill.data.taking import Taken
from modelmill.model.fitted import Floats, make_y
from modelmill.names import Digest, digest_of
from modelmill.orchestrator.project import Project
from modelmill.orchestrator.training import recipe_of, rows_together
from modelmill.store.opening import Store


class Laid(NamedTuple):
    """A table that workers map, what there is to fit in it, and what is true of its rows."""

    plan: Plan
    """As for a first build: every segment, and the pooled model."""
    labelled: Segments
    y: NDArray[np.float64]
    """(rows,)"""
    test_share: float
    setup: Setup

    @property
    def steps(self) -> list[Step]:
        """Return what is fitted: every segment, or the one model where there are none."""
        if self.plan.steps or self.plan.pooled is None:
            return self.plan.steps
        return [self.plan.pooled]

    def tests(self, step: Step) -> slice:
        """Return where the test rows of a segment lie."""
        end = step.start + step.rows
        return slice(end - tests_of(step.rows, self.test_share), end)

    def truth(self, step: Step) -> Floats:
        """Return the true values (rows,) of a segment's test rows."""
        return self.y[self.tests(step)]

    def training(self, step: Step) -> Floats:
        """Return the true values (rows,) of the rows that a segment is fitted on."""
        return self.y[step.start : self.tests(step).start]


def lay_out(
    store: Store, project: Project, taken: Taken, folder: Path, parameters: Mapping[str, Any], code: Digest
) -> Laid:
    """Write the table of a snapshot's labelled rows into a folder, and plan it as a first build."""
    model, table = project.model, folder / "table"
    labelled = write_build_table(table, model.spec, taken.segments, taken.frame)
    y = make_y(model.spec, BuildTable(table, model.spec).rows(0, int(labelled.rows.sum())))
    several = np.ones(len(labelled), dtype=bool)
    if model.task != "regression":
        several = has_several_classes(y, labelled)
    plan = plan_build(model, labelled, several, code, digest_of(recipe_of(model, parameters)), {})
    write_tests(folder / "tests", labelled.rows, model.test_share)
    setup = Setup(
        file=project.file.path,
        root=project.settings.root,
        model=model.name,
        table=table,
        blobs=store.blobs.folder,
        parameters=dict(parameters),
        bins=[],
        code=code,
        recipe=plan.model,
        tests=folder / "tests",
        together=rows_together(model),
    )
    return Laid(plan, labelled, y.astype(np.float64), model.test_share, setup)


def open_triers(project: Project, setup: Setup, workers: int) -> LocalCompute:
    """Start workers that fit and judge segments as a build does, and save nothing."""
    build = project.settings.build
    return LocalCompute(
        "modelmill.build.trying:open_trier",
        setup,
        workers=workers,
        template=start_template(project.settings.root, together=setup.together > 0),
        limits=Limits(build.segment_timeout_s, build.worker_memory_mb),
    )
