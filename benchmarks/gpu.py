"""What this project does on a GPU, measured stage by stage; see benchmarks/README.md for the order of the commands.

    python benchmarks/gpu.py STAGE --out DIR

Each stage writes DIR/STAGE.json and prints a short table last. It keeps to its share of the time: rows that no longer
fit are dropped, and the file says which. `--small` tries a stage on any machine within a minute, on tiny phantoms;
what needs a card is then named as skipped.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import click

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the project need not be installed

from measuring import Stage, command  # noqa: E402

WORK: Final = Path(tempfile.gettempdir()) / "fundus-gpu"
"""Where phantoms and runs lie; on the GPU machine they last from one visit to the next."""


BRIEF: Final = 0.5
"""Seconds of a turn where many variants of one thing are compared."""


def draw(stage: Stage) -> None:
    """Phantoms, cached at both sizes."""
    from drawn import draw as draw_all

    draw_all(stage)


def steps(stage: Stage) -> None:
    """Training steps on a resident batch: both networks, both sizes; how long the card waits for the host."""
    import workloads
    from drawn import open_drawn

    scale = stage.scale
    with stage.group(seconds=stage.left() * 0.8) as group:
        for size in (scale.large, scale.small):
            for network in workloads.NETWORKS:
                group.add(workloads.step_row(network, size), partial(workloads.alone, stage, network, size))
        with open_drawn(stage, scale.large) as cache:
            for network in workloads.NETWORKS:
                group.add(
                    f"trainer's own step, {network}, {scale.large} px",
                    partial(workloads.own_step, stage, cache, network, scale.large),
                )
    for network in workloads.NETWORKS:
        row = f"trainer's own step, {network}, {scale.large} px"
        stage.want(f"{row} / step alone", stage.ratio(row, workloads.step_row(network, scale.large)))
    name = f"the host's share of a step alone, {scale.large} px"
    for network in workloads.NETWORKS:
        each = f"{name}, {network}"
        if not stage.lacks(each, ["cuda"], seconds=5):
            with stage.attempt(each):
                stage.facts[each] = workloads.host_share(workloads.alone(stage, network, scale.large), 10)


def compile_steps(stage: Stage) -> None:
    """The same steps by --compile: each network at each size costs up to a minute before its first step."""
    import workloads

    scale = stage.scale
    everything = [(network, size) for size in (scale.large, scale.small) for network in workloads.NETWORKS]
    for network, size in [(workloads.NETWORKS[0], scale.small)] if stage.small else everything:
        plain, compiled = (workloads.step_row(network, size, compiled=each) for each in (False, True))
        if stage.lacks(compiled, ["compiler"], seconds=20):
            continue
        with stage.group() as group:
            group.add(compiled, partial(workloads.alone, stage, network, size, compiled=True))
            group.add(plain, partial(workloads.alone, stage, network, size))
        stage.want(f"{compiled} / without", stage.ratio(compiled, plain))
        if compiled in stage.rows:
            # Images that grow would pay this for every size they pass; trainer leaves those sizes uncompiled.
            stage.facts[f"{compiled}: seconds until its first step is done"] = stage.rows[compiled].opening_seconds


def torchvision(stage: Stage) -> None:
    """The torchvision loader alone and feeding steps, and its peers that need no DALI."""
    import workloads
    from drawn import halved_colour, jpegs_of, open_drawn

    from tools.benchmark.workloads import DECODE, PLAIN, decode_on_gpu

    scale, batch = stage.scale, stage.scale.batch
    name = "torchvision"
    with open_drawn(stage, scale.large) as large, open_drawn(stage, scale.small) as small:
        with stage.group(seconds=stage.left() * 0.6) as group:
            rows = workloads.rows_of(stage, large, group.stack)
            jpegs = jpegs_of(stage, large)
            whole = workloads.loader_row(name, scale.large, scale.large)
            group.add(whole, lambda: workloads.drain(rows.open(name, large, scale.large)))
            group.add(PLAIN, rows.plain)
            group.add(DECODE, rows.decode)
            for colours, some in (("4:4:4", jpegs), ("4:2:0", halved_colour(jpegs))):
                row = workloads.nvjpeg_row(name, scale.large, colours)
                group.add(row, partial(decode_on_gpu, some, batch, stage.device), needs=["cuda"])
            for cache in (small, large):
                group.add(
                    workloads.loader_row(name, scale.small, cache.recipe.size),
                    lambda cache=cache: workloads.drain(rows.open(name, cache, scale.small)),
                )
        for base in (PLAIN, DECODE, workloads.nvjpeg_row(name, scale.large)):
            stage.want(f"{whole} / {base}", stage.ratio(whole, base))
        fed(stage, {scale.large: large, scale.small: small}, [name])


def fed(stage: Stage, caches: dict[int, object], names: list[str], *, decoding: bool = False) -> None:
    """Both networks' steps at both sizes, alone and fed by the loaders, and what was wanted of it.

    decoding: whether nvJPEG alone is measured beside them; it is then the bound where it is the slower.
    """
    import workloads
    from drawn import jpegs_of

    from tools.benchmark.workloads import Step, decode_on_gpu

    combinations = [(network, size) for size in caches for network in workloads.NETWORKS]
    for number, (network, size) in enumerate(combinations):
        alone, limit = workloads.step_row(network, size), f"nvJPEG alone beside {network}, {size} px"
        profiled = f"the host's share of a step fed by {names[0]}, {network}, {size} px"
        with stage.group(seconds=stage.left() / (len(combinations) - number)) as group:
            rows = workloads.rows_of(stage, caches[size], group.stack)  # type: ignore[arg-type]
            loaders = {name: rows.open(name, rows.cache, size) for name in names}
            workloads.add_resident_and_fed(stage, group, rows, network, loaders)
            if decoding:
                jpegs = jpegs_of(stage, rows.cache)
                group.add(limit, partial(decode_on_gpu, jpegs, stage.scale.batch, stage.device), needs=["cuda"])
            if not stage.lacks(profiled, ["cuda"], seconds=20):
                with stage.attempt(profiled):
                    run = rows.render(loaders[names[0]], Step(stage.device, network))
                    stage.facts[profiled] = workloads.host_share(run, 10)
        for name in names:
            row, bases = workloads.fed_row(name, network, size), [alone]
            if limit in stage.rows:
                bases.append(limit)
            least = 0.95 if name == "dali" and decoding else None
            what = "the smaller of the step alone and nvJPEG alone" if decoding else "the step alone"
            value = stage.ratio(row, *bases) if len(bases) == 2 or not decoding else None
            stage.want(f"{row} / {what}", value, least)


def dali(stage: Stage) -> None:
    """The DALI loader against nvJPEG alone, beside its peers, and feeding steps."""
    import switches
    import workloads
    from drawn import halved_colour, jpegs_of, open_drawn

    from tools.benchmark.workloads import PLAIN, decode_on_gpu

    scale, batch = stage.scale, stage.scale.batch
    if stage.lacks("the DALI loader", ["dali"]):
        return
    with open_drawn(stage, scale.large) as large, open_drawn(stage, scale.small) as small:
        whole = workloads.loader_row("dali", scale.large, scale.large)
        limits = [workloads.nvjpeg_row(by, scale.large) for by in ("torchvision", "nvimgcodec")]
        with stage.group(seconds=stage.left() * 0.5) as group:
            rows = workloads.rows_of(stage, large, group.stack)
            jpegs = jpegs_of(stage, large)
            group.add(whole, lambda: workloads.drain(rows.open("dali", large, scale.large)), needs=["dali"])
            group.add(limits[0], partial(decode_on_gpu, jpegs, batch, stage.device), needs=["cuda"])
            group.add(limits[1], partial(workloads.nvimgcodec_alone, jpegs, batch, []), needs=["nvimgcodec", "cuda"])
            group.add(PLAIN, rows.plain)
            group.add(
                workloads.loader_row("torchvision", scale.large, scale.large),
                lambda: workloads.drain(rows.open("torchvision", large, scale.large)),
            )
            group.add(f"DALI's decoder alone, {scale.large} px", partial(workloads.dali_alone, stage, jpegs))
            group.add(
                f"DALI's own reader with fn.rotate, {scale.large} px",
                partial(workloads.dali_own_reader, stage, stage.work / "files", jpegs),
            )
            group.add(
                workloads.loader_row("dali", scale.small, scale.small),
                lambda: workloads.drain(rows.open("dali", small, scale.small)),
            )
            group.add(
                workloads.loader_row("dali", scale.small, scale.large),
                lambda: workloads.drain(rows.open("dali", large, scale.small)),
            )
            for what, kinds in (("the hardware engine", ["HW_GPU_ONLY"]), ("CUDA kernels", ["GPU_ONLY"])):
                group.add(
                    workloads.nvjpeg_row(f"nvimgcodec, {what} only", scale.large),
                    partial(workloads.nvimgcodec_alone, jpegs, batch, kinds),
                    needs=["nvimgcodec", "cuda"],
                )
            halved = halved_colour(jpegs)
            group.add(
                workloads.nvjpeg_row("nvimgcodec", scale.large, "4:2:0"),
                partial(workloads.nvimgcodec_alone, halved, batch, []),
                needs=["nvimgcodec", "cuda"],
            )
            group.add(
                workloads.nvjpeg_row("torchvision", scale.large, "4:2:0"),
                partial(decode_on_gpu, halved, batch, stage.device),
                needs=["cuda"],
            )
            if stage.device.type == "cpu":
                group.add(
                    "nvimgcodec on the CPU",
                    partial(workloads.nvimgcodec_alone, jpegs, batch, ["CPU_ONLY"], on_card=False),
                    needs=["nvimgcodec"],
                )
        measured = [row for row in limits if row in stage.rows]
        fastest = max(measured, key=lambda row: stage.rows[row].median, default=None)
        stage.want(f"{whole} / nvJPEG alone", stage.ratio(whole, fastest) if fastest else None, 0.9)
        stage.want(f"{whole} / {PLAIN}", stage.ratio(whole, PLAIN), 5)
        stage.want(f"{whole} / DALI's own reader", stage.ratio(whole, f"DALI's own reader with fn.rotate, "
                                                                     f"{scale.large} px"))  # fmt: skip
        for name in (switches.AS_IT_IS, "outputs bound to torch's stream"):
            whether = f"dali, {name}: a batch let go of early is whole when the card reads it late"
            if not stage.lacks(whether, ["cuda"], seconds=10):
                with stage.attempt(whether):
                    loader_class = switches.dali_variants()[name][0]
                    whole_batches = switches.late_readers(stage, large, loader_class)
                    stage.facts[whether] = whole_batches
                    stage.want(whether, float(whole_batches), 1)
        fed(stage, {scale.large: large, scale.small: small}, ["dali", "torchvision"], decoding=True)


def switch(stage: Stage) -> None:
    """Suspicions, each measured both ways."""
    import switches
    import workloads
    from drawn import open_drawn

    scale = stage.scale
    with open_drawn(stage, scale.large) as cache:
        if not stage.lacks("switches of the DALI loader", ["dali"]):
            names = list(switches.dali_variants())
            subject = f"--loader dali, {scale.large} px"
            with stage.group(seconds=stage.left() * 0.38, turn=BRIEF) as group:
                switches.add_dali(
                    stage, group, cache, scale.large, subject, [each for each in names if each != "no halving"]
                )
            switches.say_switches(stage, subject, names[1:-1])
            subject = f"a step of a ResNet-18 fed by dali, {scale.large} px"
            bound = [names[0], "outputs bound to torch's stream", "both of these"]
            with stage.group(seconds=stage.left() * 0.2, turn=BRIEF) as group:
                switches.add_dali(stage, group, cache, scale.large, subject, bound, feeding=True)
            switches.say_switches(stage, subject, bound[1:])
            subject = f"--loader dali, {scale.small} px from a cache of {scale.large} px"
            with stage.group(seconds=stage.left() * 0.15, turn=BRIEF) as group:
                switches.add_dali(stage, group, cache, scale.small, subject, [switches.AS_IT_IS, "no halving"])
            switches.say_switches(stage, subject, ["no halving"])
        subject = f"trainer's step of a ResNet-18, {scale.large} px"
        with stage.group(seconds=stage.left() * 0.4, turn=BRIEF) as group:
            variants = switches.add_steps(stage, group, cache, scale.large, subject)
        switches.say_switches(stage, subject, variants)
        with stage.attempt("layouts"):
            switches.find_layouts(stage, cache, scale.large)
        subject = f"--loader torchvision, {scale.large} px"
        with stage.group(seconds=stage.left() * 0.4, turn=BRIEF) as group:
            variants = switches.add_torchvision(stage, group, cache, scale.large, subject)
        switches.say_switches(stage, subject, variants)
        subject = f"a step of a ResNet-18 fed by torchvision, {scale.large} px"
        with stage.group(seconds=stage.left() * 0.3, turn=BRIEF) as group:
            variants = switches.add_fed_streams(stage, group, workloads.rows_of(stage, cache, group.stack), subject)
        switches.say_switches(stage, subject, variants)
        subject = f"the head phase's features, {scale.large} px"
        with stage.group(seconds=stage.left() * 0.4, turn=BRIEF) as group:
            variants = switches.add_features(stage, group, cache, scale.large, subject)
        switches.say_switches(stage, subject, variants)
        with stage.group(turn=BRIEF) as group:
            switches.add_predict(stage, group, scale.large)
        stage.want(
            "predict: as it is / the slower of preparing and the network",
            stage.ratio("predict: as it is", "predict: preparing alone", "predict: the network alone"),
        )


def nccl(stage: Stage) -> None:
    """The paths for several processes with one rank: NCCL on a card, gloo without."""
    import one_rank
    from drawn import open_drawn

    size = stage.scale.small
    stage.lacks("NCCL", ["cuda"])
    with open_drawn(stage, size) as cache:
        with stage.attempt("steps as one rank"):
            found = one_rank.compare(stage, cache, size)
            stage.facts.update({f"one rank, {name}": value for name, value in found.items()})
            stage.want("one rank's losses against plain ones, relative", found["largest_difference"], most=1e-3)
        with stage.attempt("the time of one rank"):
            one_rank.measure(stage, cache, size)


def fits(stage: Stage) -> None:
    """`trainer fit` for three epochs with each loader; then what time allows."""
    import fits as runs

    seconds = 5.0 if stage.small else 18.0
    options = ["--batch", 8] if stage.small else []
    made = {
        name: runs.fit(stage, f"--loader {name}", "--loader", name, *options, epochs=3, seconds=seconds)
        for name in ("dali", "torchvision")
    }
    value = None
    if made["dali"] and made["torchvision"]:
        found = runs.differences(made["dali"], made["torchvision"])
        stage.facts["curves of the two loaders, largest differences"] = found
        value = found["first_loss"]
        stage.want("learning rates of the two runs, largest difference", found["lr"], most=0)
    # The bound is that of the CPU: pixels a grey level apart, which training magnifies.
    stage.want("loss of the first epoch, one loader against the other, relative", value, most=0.02)
    if not stage.lacks("--loader dali, resnet50", ["cuda"]):
        runs.fit(stage, "resnet50", "--loader", "dali", "--model", "resnet50", epochs=3, seconds=1.2 * seconds)


def train(stage: Stage) -> None:
    """With the time that is left: a ResNet-50 at full size, which takes two cores hours."""
    import fits as runs

    options = ["--batch", 8] if stage.small else ["--compile", "--ema", "0.99"]
    epochs = 1 if stage.small else 20
    network = "resnet18" if stage.small else "resnet50"
    runs.fit(stage, f"{network} for {epochs} epochs", "--model", network, *options, epochs=epochs, seconds=5)


def tests(stage: Stage, selection: str) -> None:
    """The tests that are marked `gpu`."""
    from xml.etree import ElementTree

    report = stage.work / f"{stage.name}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    # Warnings of versions that the project is not developed with fail no test here.
    arguments = ["-m", "pytest", *files, "-m", "gpu", "-k", selection, "-q", "--tb=short", "-W", "default"]
    if stage.lacks("tests marked gpu", ["cuda"]):
        with stage.attempt("collecting tests"):
            _, output, _ = command(stage.work, *arguments, "--collect-only", timeout=stage.left())
            stage.facts["tests that would run"] = output.count("::")
        return
    with stage.attempt("pytest"):
        code, output, _ = command(stage.work, *arguments, f"--junitxml={report}", timeout=stage.left())
        print(output[-3000:])
        if code not in (0, 1, 5):  # all passed, some failed, none selected
            raise RuntimeError(f"exit code {code}")
        counts = {"passed": 0, "failed": 0, "skipped": 0}
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            problem = next((each for each in case if each.tag in ("failure", "error")), None)
            if problem is not None:
                stage.failed[name] = str(problem.get("message"))[:500]
                counts["failed"] += 1
            elif case.find("skipped") is not None:
                stage.skipped[name] = str(case.find("skipped").get("message"))  # type: ignore[union-attr]
                counts["skipped"] += 1
            else:
                counts["passed"] += 1
        stage.facts.update({f"tests {outcome}": count for outcome, count in counts.items()})
        stage.want("tests that failed", float(counts["failed"]), most=0)


class Work(NamedTuple):
    do: Callable[[Stage], None]
    seconds: float


STAGES: Final = {
    "draw": Work(draw, 45),
    "tests-torchvision": Work(partial(tests, selection="not dali"), 30),
    "steps": Work(steps, 50),
    "torchvision": Work(torchvision, 100),
    "compile": Work(compile_steps, 70),
    "tests-dali": Work(partial(tests, selection="dali"), 30),
    "dali": Work(dali, 175),
    "nccl": Work(nccl, 25),
    "switches": Work(switch, 100),
    "fits": Work(fits, 75),
    "train": Work(train, 100),
}
"""In the order of benchmarks/README.md, with the seconds that each may take on the GPU machine."""

SLOWER: Final = 4
"""Times as long as a trial may take: two busy cores are not sixteen and a card."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("stage", type=click.Choice([*STAGES, "page"]))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the JSON files.")
@click.option("--work", type=click.Path(path_type=Path), default=WORK, help="Folder of phantoms and runs.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="That the stage may take.")
@click.option("--small", is_flag=True, help="Try the stage on tiny phantoms; figures say nothing.")
@click.option("--page", "page_path", type=click.Path(path_type=Path), default=ROOT / "docs/benchmarks.md",
              help="With the stage `page`: the page whose GPU table is written from the JSON files.")  # fmt: skip
def main(stage: str, out: Path, work: Path, seconds: float | None, small: bool, page_path: Path) -> None:
    """Measure one STAGE, or write what was measured into the benchmark page."""
    if stage == "page":
        from page import fill

        click.echo(fill(page_path, out, small=small))
        return
    if absent := [name for name in ("simplejpeg", "rich") if find_spec(name) is None]:
        raise click.ClickException(f"{' and '.join(absent)} missing; unpack part 1 first, see benchmarks/README.md")
    from pipeline.machine import set_up

    set_up()  # as the commands do
    folder = work / ("small" if small else "full")
    allowed = STAGES[stage].seconds * (SLOWER if small else 1)
    measured = Stage(stage, out, folder, seconds or allowed, small=small)
    with ExitStack() as stack:
        stack.callback(lambda: click.echo(measured.table()))
        stack.callback(measured.write)  # also where a stage is interrupted
        with measured.attempt("the stage"):
            STAGES[stage].do(measured)


if __name__ == "__main__":
    main()
