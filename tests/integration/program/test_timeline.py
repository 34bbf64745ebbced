"""--timeline: what a verb did when."""

import json


def events(path):
    found = json.loads(path.read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in found if event["ph"] == "M"}
    return [(names[event["pid"]], event) for event in found if event["ph"] == "X"]


def test_run_has_the_steps_of_both(container, tmp_path):
    c = container(hooks={"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "0.05"]}]})
    assert c.run("hostname", flags=("--timeline", str(tmp_path / "t.json")))
    found = events(tmp_path / "t.json")
    steps = {(who, event["name"]) for who, event in found if event["cat"] == "step"}
    assert {
        ("runtime", "pyrunc run"),
        ("runtime", "create.read_config"),
        ("runtime", "hooks.createRuntime"),
        ("container's process", "rootfs.pivot"),
        ("container's process", "execute.leave_nothing"),
        ("runtime", "start.wait_for_program"),
    } <= steps
    (whole,) = [event for _, event in found if event["name"] == "pyrunc run"]
    for _, event in found:
        assert whole["ts"] <= event["ts"]
        assert event["ts"] + event["dur"] <= whole["ts"] + whole["dur"] + 1
    calls = [event for _, event in found if event["cat"] == "system call"]
    assert calls  # a hook was waited for
    assert all(event["dur"] >= 100 for event in calls)
    (hook,) = [event for _, event in found if event["name"] == "hooks.createRuntime"]
    assert hook["dur"] >= 50_000


def test_create_exec_and_start(container, tmp_path):
    c = container()
    files = [tmp_path / verb for verb in ("create", "start", "exec")]
    c.create("sleep", "1000", flags=("--timeline", str(files[0])))
    c.runtime("start", "--timeline", files[1], c.id)
    c.runtime("exec", "--timeline", files[2], c.id, "true")
    for file, step in zip(files, ("rootfs.pivot", "start.wait_for_program", "rootfs.adopt"), strict=True):
        assert step in {event["name"] for _, event in events(file)}
    c.delete("--force")


def test_a_table_on_standard_error(container):
    c = container()
    result = c.attempt("hostname", flags=("--timeline", "-"))
    lines = result.err.splitlines()
    assert lines[0].split() == ["at", "ms", "took", "ms", "by", "what"]
    assert lines[1].endswith("runtime  pyrunc run")
    assert any("process  rootfs.pivot" in line for line in lines)


def test_what_fails_has_one_too(container, tmp_path):
    c = container(args=["nowhere"])
    assert c.attempt(flags=("--timeline", str(tmp_path / "t.json"))).code == 1
    assert "execute.leave_nothing" not in (tmp_path / "t.json").read_text()
    assert "pyrunc run" in (tmp_path / "t.json").read_text()
    c.assert_gone()


def test_not_with_a_keeper(container):
    c = container()
    c._prepare(("true",))
    flags = ("--timeline", "-", "--exit-record")
    result = c.runtime("create", *flags, "--bundle", c.bundle.path, c.id, check=False)
    assert "can't be had with --exit-record" in result.err
    c.assert_gone()


def test_another_configuration(container, tmp_path):
    """--config of create and run."""
    c = container()
    c._prepare(("false",))
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**c.config, "process": {**c.config["process"], "args": ["hostname"]}}))
    assert c.runtime("run", "--config", other, "--bundle", c.bundle.path, c.id).out
    assert c.runtime("run", "--config", "other.json", "--bundle", c.bundle.path, c.id, cwd=tmp_path).out
    assert "no such file" in c.runtime("run", "--config", "/nowhere", "--bundle", c.bundle.path, c.id, check=False).err
