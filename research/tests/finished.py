"""What a run leaves that has ended, without training it."""

from tiny_runs import METRIC, write_log

# What is noted when a run is started.
START = dict(
    began=1000.0,
    settings='those',
    teacher_sha256=None,
    commit='abc',
    versions=dict(torch='2'),
    machine='two cores',
)


def finish_run(run, scores: list[float]) -> None:
    """Leave what a run leaves that has ended with these scores, in its last epochs."""
    first = run.epochs - len(scores) + 1
    lines = [{METRIC: x, 'step': first + i} for i, x in enumerate(scores)]
    write_log(run.work_dir, lines)
    run.last_checkpoint.write_bytes(b'weights of ' + run.name.encode())
    run.write_result()
