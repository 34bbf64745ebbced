"""WebAssembly by an engine of the host, which the container's own root file system does not have."""

import base64
import os
import shutil

import pytest

HANDLER, VARIANT = "run.oci.handler", "module.wasm.image/variant"
COMMANDS = {"wasmtime": "wasmtime", "wasmedge": "wasmedge", "wamr": "iwasm"}
# It writes its arguments, its environment, and /data/file to standard output, and ends with 40 + its arguments' number.
MODULE = base64.b64decode(
    "AGFzbQEAAAABKAZgAn9/AX9gBH9/f38Bf2AJf39/f39+fn9/AX9gAX8AYAJ/fwBgAAACpAIIFndhc2lfc25hcHNob3RfcHJldmlldzEOYXJnc19z"
    "aXplc19nZXQAABZ3YXNpX3NuYXBzaG90X3ByZXZpZXcxCGFyZ3NfZ2V0AAAWd2FzaV9zbmFwc2hvdF9wcmV2aWV3MRFlbnZpcm9uX3NpemVzX2dl"
    "dAAAFndhc2lfc25hcHNob3RfcHJldmlldzELZW52aXJvbl9nZXQAABZ3YXNpX3NuYXBzaG90X3ByZXZpZXcxCGZkX3dyaXRlAAEWd2FzaV9zbmFw"
    "c2hvdF9wcmV2aWV3MQlwYXRoX29wZW4AAhZ3YXNpX3NuYXBzaG90X3ByZXZpZXcxB2ZkX3JlYWQAARZ3YXNpX3NuYXBzaG90X3ByZXZpZXcxCXBy"
    "b2NfZXhpdAADAwMCBAUFAwEAAQcTAgZtZW1vcnkCAAZfc3RhcnQACQqlAQIbAEEQIAA2AgBBFCABNgIAQQFBEEEBQRgQBBoLhgEAQQBBBBAAGkGA"
    "CEGAIBABGkGAIEEEKAIAEAhBCEEMEAIaQYAIQYDAABADGkGAwABBDCgCABAIQQNBAEHg1ANBCUEAQgJCAkEAQSAQBUUEQEEQQYCAATYCAEEUQegH"
    "NgIAQSAoAgBBEEEBQRgQBhpBgIABQRgoAgAQCAtBKEEAKAIAahAHCwsRAQBB4NQDCwlkYXRhL2ZpbGUAMwRuYW1lASAJAAJhcwEBYQICZXMDAWUE"
    "AXcFAW8GAXIHAXgIA3NheQIKAQgCAAJhdAEBbg=="
)
ECHO = shutil.which("echo") or ""


def with_module(container, args, **annotations):
    c = container(annotations=annotations)
    (c.bundle.rootfs / "app.wasm").write_bytes(MODULE)
    (c.bundle.rootfs / "data").mkdir()
    (c.bundle.rootfs / "data/file").write_text("hello\n")
    c.config["process"]["env"] = ["A=B c", "D="]
    c._prepare(args)
    return c


@pytest.mark.parametrize("name", COMMANDS)
def test_a_module_is_the_program(container, name):
    if not shutil.which(COMMANDS[name]):
        pytest.skip(f"NOT TESTED: the engine {name}: {COMMANDS[name]} is not installed")
    for annotations in ({HANDLER: name}, {HANDLER: "wasm"}, {VARIANT: "compat-smart"}):
        c = with_module(container, ("/app.wasm", "x", "-y"), **annotations)
        result = c.runtime("run", "--bundle", c.bundle.path, c.id, check=False)
        said = result.out.split("\0")
        assert said[0].endswith("app.wasm"), repr(result)
        assert said[1:3] == ["x", "-y"], repr(result)
        assert {"A=B c", "D="} <= {*said[3:-1]}
        assert (said[-1], result.code) == ("hello\n", 43)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A program that needs the host's libraries, and shows how an engine would be called."""
    for command in COMMANDS.values():
        shutil.copy(ECHO, tmp_path / command)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("annotation", "value", "said"),
    [
        (HANDLER, "wasmtime", "run --dir / --env A --env D /app.wasm x\n"),
        (HANDLER, "wasm", "run --dir / --env A --env D /app.wasm x\n"),
        (HANDLER, "wasmedge", "--dir /:/ --env A=B c --env D= /app.wasm x\n"),
        (HANDLER, "wamr", "--dir=/ --env=A=B c --env=D= /app.wasm x\n"),
        (VARIANT, "compat", "run --dir / --env A --env D /app.wasm x\n"),
        (VARIANT, "compat-smart", "run --dir / --env A --env D /app.wasm x\n"),
    ],
)
def test_the_engine_runs_with_the_host_s_libraries(container, stand_in, annotation, value, said):
    c = with_module(container, ("/app.wasm", "x"), **{annotation: value})
    assert c.runtime("run", "--bundle", c.bundle.path, c.id).out == said


@pytest.mark.parametrize("annotations", [{VARIANT: "compat-smart"}, {VARIANT: "other"}, {HANDLER: ""}])
def test_what_is_no_module_runs_as_ever(container, stand_in, annotations):
    c = with_module(container, ("/bin/echo", "x"), **annotations)
    assert c.runtime("run", "--bundle", c.bundle.path, c.id).out == "x\n"


def test_without_a_dev_of_its_own_the_engine_is_at_the_root(container, stand_in):
    c = with_module(container, ("/app.wasm",), **{HANDLER: "wamr"})
    c.change(mounts=[{"destination": "/proc", "type": "proc", "source": "proc"}])
    c._prepare(())
    assert c.runtime("run", "--bundle", c.bundle.path, c.id).out.endswith(" /app.wasm\n")


def test_a_handler_that_nobody_has(container):
    refused = container(annotations={HANDLER: "krun"}).refused("/app.wasm")
    assert 'there is no handler "krun"; one of: wasm, wasmtime, wasmedge, wamr' in refused
    assert f"/annotations/{HANDLER}" in refused


def test_an_engine_that_is_not_installed(container):
    if shutil.which("wasmedge"):
        pytest.skip("it is")
    c = container(annotations={HANDLER: "wasmedge"})
    assert "no engine of WebAssembly is installed: wasmedge" in c.refused("/app.wasm")


def test_an_engine_that_is_no_program(container, tmp_path, monkeypatch):
    (tmp_path / "wasmtime").write_text("#!/bin/sh\n")
    (tmp_path / "wasmtime").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "is no ELF program" in container(annotations={HANDLER: "wasmtime"}).refused("/app.wasm")


def test_a_module_that_is_a_flag_is_refused(container, stand_in):
    assert "would take this module's name for a flag" in container(annotations={HANDLER: "wasm"}).refused("--help")


def test_a_mount_namespace_is_needed(container, stand_in):
    c = container(annotations={HANDLER: "wasm"}, namespaces=[{"type": "pid"}])
    assert "needs a mount namespace" in c.refused("/app.wasm")
