"""The command line: flags as Go programs take them, tables and JSON as runc prints them, errors as engines read."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from integration.support.runtime import RFC3339, logged, wait_until

VERBS = ("create", "delete", "exec", "features", "kill", "list", "ps", "run", "spec", "start", "state", "validate")
runc = pytest.mark.skipif(not shutil.which("runc"), reason="runc, to compare with, is not installed")


def run_runc(*words, **how):
    return subprocess.run(
        ["runc", *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        **how,
    )


@pytest.fixture
def twin(container, tmp_path):
    """The same container twice: by the runtime under test, and by runc."""
    c = container(annotations={"a": "b"}).up()
    root = tmp_path / "runc"
    # Detached, it keeps the streams: no pipes.
    subprocess.run(
        ["runc", "--root", root, "run", "-d", "--bundle", c.bundle.path, f"{c.id}-runc"],
        check=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield c, lambda verb, *words: run_runc("--root", root, verb, *words)
    subprocess.run(["runc", "--root", root, "delete", "-f", f"{c.id}-runc"], check=True, timeout=30)


# --- help and version


@pytest.mark.parametrize("flag", ["--version", "-v", "-version"])
def test_version(runtime, flag):
    lines = runtime(flag).out.splitlines()
    assert lines[0].startswith("pyrunc version ")
    assert "spec: 1.3.0" in lines


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("help",), ("-help",), ()])
def test_help_names_every_verb(runtime, words):
    out = runtime(*words).out
    for verb in VERBS:
        assert f"   {verb} " in out


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("form", ["--help", "-h", "help"])
def test_help_of_a_verb(runtime, verb, form):
    words = ("help", verb) if form == "help" else (verb, form)
    out = runtime(*words).out
    assert f"pyrunc {verb}" in out
    assert "USAGE:" in out


def test_help_of_what_is_no_verb(runtime):
    result = runtime("foo", "-h", check=False)
    assert (result.code, "No help topic for 'foo'" in result.err) == (1, True)


def test_an_unknown_verb_is_named(runtime):
    result = runtime("dance", check=False)
    assert result.code == 1
    assert "dance" in result.err


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("exec",)])
def test_an_unknown_flag_is_named(runtime, verb):
    result = runtime(verb, "--nosuch", check=False)
    assert result.code == 1
    assert "flag provided but not defined: -nosuch" in result.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("strat", "a"), "did you mean start?"),
        (("run", "--bundel", "x", "a"), "did you mean --bundle?"),
        (("run", "--debug", "a"), "stands before the verb: pyrunc --debug run"),
        (("run", "--root", "/x", "a"), "stands before the verb: pyrunc --root DIR run"),
        (("--bundle", "x", "run", "a"), "stands behind the verb: pyrunc run --bundle"),
        (("--rot", "x", "list"), "did you mean --root?"),
        (("list", "--format"), "table or json"),
        (("run", "a"), "--bundle DIR"),
    ],
)
def test_what_was_probably_meant(runtime, words, hint, tmp_path):
    result = runtime(*words, check=False, cwd=tmp_path)
    assert result.code == 1
    assert hint in result.err
    assert result.err.count("pyrunc: ") <= 1


@pytest.mark.parametrize(
    ("verb", "words"),
    [(verb, ()) for verb in ("create", "delete", "kill", "ps", "run", "start", "state")]
    + [(verb, ("a", "b")) for verb in ("create", "delete", "run", "start", "state")]
    + [(verb, ("a",)) for verb in ("list", "spec", "features")]
    + [("kill", ("a", "b", "c"))],
)
def test_too_few_and_too_many_arguments(runtime, verb, words):
    result = runtime(verb, *words, check=False)
    assert result.code == 1
    assert f'"{verb}"' in result.err
    assert "argument" in result.err


def test_a_flag_without_its_value_is_named(runtime):
    result = runtime("create", "--bundle", check=False)
    assert result.code == 1
    assert "flag needs an argument: -bundle" in result.err


# --- flags as Go takes them


@pytest.mark.parametrize(
    "form", [("--bundle", "{}"), ("-bundle", "{}"), ("--bundle={}",), ("-bundle={}",), ("-b", "{}"), ("-b={}",)]
)
def test_forms_of_a_flag_with_a_value(container, form):
    c = container()
    c._prepare(("true",))
    c.runtime("create", *(word.format(c.bundle.path) for word in form), c.id)
    assert c.status == "created"


def test_flags_may_follow_the_id(container):
    c = container()
    c._prepare(("true",))
    c.runtime("create", c.id, "--bundle", c.bundle.path)
    assert c.status == "created"


def test_two_dashes_end_the_flags(runtime):
    assert "container does not exist" in runtime("state", "--", "nobody", check=False).err


def test_a_flag_can_be_switched_off(container):
    c = container().up()
    assert c.delete("--force=false", check=False).code == 1
    assert c.status == "running"


@pytest.mark.parametrize(
    "words", [("--rootless", "auto"), ("--rootless=false",), ("--log-format", "text"), ("--debug=false",)]
)
def test_flags_of_engines_are_known(runtime, words):
    runtime.root.mkdir()
    assert runtime(*words, "list", "-q").out == ""


@pytest.mark.parametrize("words", [("--log-format", "xml"), ("--rootless", "perhaps")])
def test_values_that_are_none_are_named(runtime, words):
    result = runtime(*words, "list", check=False)
    assert result.code == 1
    assert words[1] in result.err


# --- list


def test_a_root_that_is_not_there_has_no_containers(runtime):
    """A state root that the caller has named must be there, as with runc since 1.2: the name may be misspelt."""
    result = runtime("list", check=False)
    assert result.code == 1
    assert str(runtime.root) in result.err


def test_no_containers_are_a_title(runtime):
    runtime.root.mkdir()
    assert runtime("list").out.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert runtime("list", "--format", "json").out == "null\n"
    assert runtime("list", "-q").out == ""


@runc
def test_the_table_of_no_containers_is_runcs(runtime, tmp_path):
    runtime.root.mkdir()
    (tmp_path / "runc").mkdir()
    assert runtime("list").out == run_runc("--root", tmp_path / "runc", "list").stdout


@runc
def test_the_table_is_runcs(twin):
    c, runc = twin
    ours, theirs = c.runtime("list").out.splitlines(), runc("list").stdout.splitlines()
    assert ours[0].split() == theirs[0].split()
    assert ours[1].split()[2:4] == theirs[1].split()[2:4] == ["running", str(c.bundle.path)]
    assert ours[1].split()[5] == theirs[1].split()[5] == "root"
    assert ours[0].index("BUNDLE") == ours[1].index(str(c.bundle.path))


@runc
def test_the_json_has_runcs_members(twin):
    c, runc = twin
    ours, theirs = json.loads(c.runtime("list", "-f", "json").out), json.loads(runc("list", "-f", "json").stdout)
    assert list(ours[0]) == list(theirs[0])
    for name in ("ociVersion", "status", "bundle", "rootfs", "annotations", "owner"):
        assert name == "ociVersion" or ours[0][name] == theirs[0][name]


def test_quiet_lists_ids(container):
    one, other = container().up(), container().up()
    assert one.runtime("list", "-q").out.split() == sorted([one.id, other.id])


def test_a_spoiled_record_does_not_hide_the_others(container):
    one, other = container().up(), container().up("true")
    other.wait_for("stopped")
    (other.runtime.root / other.id / "state.json").write_text('{"id": ')
    result = one.runtime("list", "-q")
    assert result.out.split() == [one.id]
    assert other.id in result.err


def test_an_unknown_format_is_named(runtime):
    assert "xml" in runtime("list", "--format", "xml", check=False).err


# --- state


@runc
def test_state_has_runcs_members_in_runcs_order(twin):
    c, runc = twin
    ours, theirs = c.runtime("state", c.id).out, runc("state", f"{c.id}-runc").stdout
    assert list(json.loads(ours)) == list(json.loads(theirs))
    assert [line.partition(":")[0] for line in ours.splitlines()] == [
        line.partition(":")[0] for line in theirs.splitlines()
    ]


def test_state_without_annotations_has_no_such_member(container):
    assert "annotations" not in container().up().state()


# --- ps


@runc
def test_ps_shows_the_same_columns_as_runc(twin):
    c, runc = twin
    ours, theirs = c.runtime("ps", c.id).out.splitlines(), runc("ps", f"{c.id}-runc").stdout.splitlines()
    assert ours[0] == theirs[0]
    assert len(ours) == len(theirs) == 2
    assert ours[1].endswith("sleep 1000")


def test_ps_as_json_is_a_list_of_pids(container):
    c = container().up("sh", "-c", "sleep 1000 & wait")
    wait_until(lambda: len(json.loads(c.runtime("ps", "--format", "json", c.id).out)) == 2, "both processes")
    assert c.pid in json.loads(c.runtime("ps", "-f", "json", c.id).out)


def test_ps_takes_options_of_ps(container):
    c = container().up()
    lines = c.runtime("ps", c.id, "-e", "-o", "pid,comm").out.splitlines()
    assert lines[0].split() == ["PID", "COMMAND"]
    assert lines[1].split() == [str(c.pid), "sleep"]


# --- spec


def test_spec_writes_what_runs(container):
    c = container()
    c.runtime("spec", "--bundle", c.bundle.path)
    path = c.bundle.path / "config.json"
    config = json.loads(path.read_text())
    assert config["process"]["args"] == ["sh"]
    assert "inheritable" not in config["process"]["capabilities"]  # CVE-2022-29162
    config["process"].update(terminal=False, args=["sh", "-c", "id -u; hostname; touch /x"])
    path.write_text(json.dumps(config))
    result = c.runtime("run", "--bundle", c.bundle.path, c.id, check=False)
    assert result.out.splitlines() == ["0", "pyrunc"]
    assert result.err == "touch: /x: Read-only file system\n"  # and no warning


def test_spec_writes_to_the_current_folder(runtime, tmp_path):
    (tmp_path / "here").mkdir()
    runtime("spec", cwd=tmp_path / "here")
    assert json.loads((tmp_path / "here/config.json").read_text())["root"] == {"path": "rootfs", "readonly": True}


def test_spec_never_overwrites(runtime, tmp_path):
    (tmp_path / "config.json").write_text("mine")
    result = runtime("spec", "--bundle", tmp_path, check=False)
    assert result.code == 1
    assert "config.json" in result.err
    assert "exists" in result.err
    assert (tmp_path / "config.json").read_text() == "mine"


@runc
@pytest.mark.parametrize("flags", [(), ("--rootless",)])
def test_spec_is_runcs(runtime, tmp_path, flags):
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    runtime("spec", *flags, "--bundle", tmp_path / "ours")
    run_runc("spec", *flags, "--bundle", tmp_path / "theirs")
    ours = json.loads((tmp_path / "ours/config.json").read_text())
    theirs = json.loads((tmp_path / "theirs/config.json").read_text())
    assert theirs.pop("ociVersion").startswith("1.")
    assert ours.pop("ociVersion") == "1.3.0"
    assert (ours.pop("hostname"), theirs.pop("hostname")) == ("pyrunc", "runc")
    for config in (ours, theirs):  # versions of runc differ here: an ambient set needs an inheritable one
        config["process"]["capabilities"].pop("ambient", None)
        config["linux"]["maskedPaths"] = sorted(set(config["linux"]["maskedPaths"]) - {"/sys/devices/virtual/powercap"})
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "cgroup"]
    assert ours == theirs


def test_the_rootless_spec_is_valid_and_runs(container):
    c = container()
    c.runtime("spec", "--rootless", "--bundle", c.bundle.path)
    path = c.bundle.path / "config.json"
    config = json.loads(path.read_text())
    config["process"].update(terminal=False, args=["id", "-u"])
    path.write_text(json.dumps(config))
    c.runtime("validate", "--bundle", c.bundle.path)
    assert c.runtime("run", "--bundle", c.bundle.path, c.id).out == "0\n"


# --- validate


def test_validate_of_a_valid_bundle(container):
    c = container()
    c.bundle.write()
    result = c.runtime("validate", "--bundle", c.bundle.path)
    assert (result.out, result.err) == ("OK\n", "")


def test_validate_knows_the_names_of_system_calls_and_looks_for_the_root(container):
    rules = [{"names": ["read", "opne", "socketcall", "mseal"], "action": "SCMP_ACT_ERRNO"}]
    c = container(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}, root={"path": "nowhere"})
    c.bundle.write()
    lines = c.runtime("validate", "--bundle", c.bundle.path, check=False).out.splitlines()
    assert len(lines) == 2
    assert "/root/path: the root file system nowhere: no such file" in lines[0]
    assert '/linux/seccomp/syscalls/0/names/1: no kernel has a system call "opne"; is it open?' in lines[1]


def test_validate_names_every_mistake_and_its_place(container):
    c = container(oomScoreAdj="high", hostname=7)
    c.bundle.write()
    result = c.runtime("validate", "--bundle", c.bundle.path, check=False)
    assert result.code == 1
    text = result.out + result.err
    assert "/process/oomScoreAdj" in text
    assert "/hostname" in text


# --- features


def test_features_follow_the_schema(runtime):
    from jsonschema.validators import validator_for
    from referencing import Registry, Resource

    folder = Path(__file__).parents[3] / "oci-spec-schemas"
    schemas = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    schema = schemas["features-schema.json"]
    registry = Registry().with_resources((name, Resource.from_contents(text)) for name, text in schemas.items())
    features = json.loads(runtime("features").out)
    validator_for(schema)({**schema, "$id": "features-schema.json"}, registry=registry).validate(features)
    assert features["ociVersionMax"] == "1.3.0"
    assert "poststop" in features["hooks"]


# --- the log


def test_errors_go_to_standard_error_in_one_line(runtime):
    result = runtime("state", "nobody", check=False)
    assert result.err == 'pyrunc: container "nobody": container does not exist\n'
    assert result.out == ""


def test_errors_go_to_the_log_and_to_standard_error(runtime, tmp_path):
    log = tmp_path / "log"
    result = runtime("--log", log, "--log-format", "json", "state", "nobody", check=False)
    (line,) = logged(log.read_text())
    assert set(line) == {"level", "msg", "time"}
    assert "container does not exist" in line["msg"]
    assert RFC3339.fullmatch(line["time"])
    assert "container does not exist" in result.err


def test_the_log_is_appended_to(runtime, tmp_path):
    log = tmp_path / "log"
    log.write_text('{"level": "error", "msg": "of before", "time": ""}\n')
    runtime("--log", log, "--log-format=json", "state", "nobody", check=False)
    assert len(logged(log.read_text())) == 2


def test_a_log_as_text_has_logrus_form(runtime, tmp_path):
    log = tmp_path / "log"
    runtime("--log", log, "state", 'no"body', check=False)
    assert log.read_text().startswith('time="')
    assert ' level=error msg="' in log.read_text()
    assert '\\"no' in log.read_text()


def test_json_without_a_file_goes_to_standard_error(runtime):
    result = runtime("--log-format", "json", "state", "nobody", check=False)
    assert logged(result.err)


def test_a_log_that_can_not_be_opened_is_an_error(runtime, tmp_path):
    result = runtime("--log", tmp_path / "no/such/log", "list", check=False)
    assert result.code == 1
    assert "no/such/log" in result.err


def test_debug_names_the_steps_with_their_times(container, tmp_path):
    c = container()
    c.bundle.write()
    c.runtime("--debug", "--log", tmp_path / "log", "--log-format", "json", "run", "--bundle", c.bundle.path, c.id)
    messages = [line["msg"] for line in logged((tmp_path / "log").read_text(), "debug")]
    assert any(message.startswith("step rootfs.pivot: ") for message in messages)
    assert messages.index(next(m for m in messages if "mounts.mount_all" in m)) < messages.index(
        next(m for m in messages if "rootfs.pivot" in m)
    )


def test_an_error_in_the_container_reaches_the_log(container, tmp_path):
    c = container()
    c._prepare(("/no/such/program",))
    log = tmp_path / "log"
    c.runtime("--log", log, "--log-format", "json", "create", "--bundle", c.bundle.path, c.id, check=False)
    assert "/no/such/program" in logged(log.read_text())[-1]["msg"]


# --- what engines look for: containerd's shim maps errors of kill and delete by these words


def test_words_that_engines_look_for(container):
    c = container()
    assert "does not exist" in c.kill("KILL", check=False).err
    c.up("true")
    c.wait_for("stopped")
    assert "container not running" in c.kill("KILL", check=False).err
    assert "cannot exec in a stopped container" in c.attempt_exec("true").err


def test_an_error_of_the_callers_locale_is_still_one(runtime):
    result = runtime("state", "nöbödy", check=False, env={**os.environ, "LC_ALL": "C", "LANG": "C"})
    assert result.code == 1
    assert "nöbödy" in result.err


def test_list_does_not_steer_the_terminal(container, tmp_path):
    folder = tmp_path / "a\x1b[31m\nb"
    folder.mkdir()
    c = container()
    (folder / "config.json").write_text(json.dumps({**c.config, "root": {"path": str(c.bundle.rootfs)}}))
    c.runtime("create", "--bundle", folder, c.id)
    out = c.runtime("list").out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2
