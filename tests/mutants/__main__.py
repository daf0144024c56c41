"""Trying mutants as a command: ``python -m tests.mutants``; exit status 1 if one survives."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from local.signals import signals_interrupt
from tests.mutants import Mutant, all_mutants, as_page
from tests.mutants.run import Result, attempt, copied, encode, require_sound


@click.command(help="Break the product in one place at a time; see that a test fails.")
@click.argument("names", nargs=-1)
@click.option("--page", is_flag=True, help="Write the tables of mutants.md instead.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here.")
def main(names: Sequence[str], page: bool, report: Path | None) -> None:
    """Try them, with progress on stderr and the summary on stdout."""
    if page:
        click.echo(as_page(), nl=False)
        return
    results = _try(_chosen(names))
    if report is not None:
        report.write_bytes(encode(results))
    counts = Counter(result.verdict for result in results)
    click.echo(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    sys.exit(0 if all(result.verdict.is_good for result in results) else 1)


def _chosen(names: Sequence[str]) -> list[Mutant]:
    known = {mutant.name: mutant for mutant in all_mutants()}
    if unknown := set(names) - known.keys():
        raise click.UsageError(f"no such mutant: {', '.join(sorted(unknown))}")
    return [known[name] for name in names or known]


def _try(mutants: Sequence[Mutant]) -> list[Result]:
    results = []
    with signals_interrupt(), copied() as copy, _progress() as progress:
        task = progress.add_task("without any mutant", total=len(mutants))
        require_sound(copy, mutants)
        for mutant in mutants:
            progress.update(task, description=mutant.name)
            result = attempt(copy, mutant)
            results.append(result)
            click.echo(f"{result.verdict:<9} {mutant.name:<40} {', '.join(result.seen_by)}")
            progress.advance(task)
    return results


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<40}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


if __name__ == "__main__":
    main()
