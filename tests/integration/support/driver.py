"""The runtime with a fault: `driver.py PACKAGES FAULT -- ARGUMENTS`, as the launcher runs it: isolated, without site.

FAULT is `step NAME`: that step of the list fails; or `call N`: of the calls of the runtime's own functions in the
process that was started, the Nth fails (0: none does, and how many there were goes to standard error); or `early -`:
the new process fails at once, before the runtime has looked at it; or no fault: `resctrl FOLDER`, where the host has
resctrl, which only some processors have.
"""

import posix
import sys


def error():
    return OSError(5, "injected failure")


def break_step(name):
    from pyrunc.init import steps
    from pyrunc.init.context import Step

    def failing(step):
        def replacement(context):
            raise error()

        broken = Step(step.title, replacement)
        broken.name = step.name
        return broken

    for kind in ("INIT", "INIT_IN_FOREIGN_MOUNTS", "EXEC"):
        found = tuple(failing(step) if step.name == name else step for step in getattr(steps, kind))
        setattr(steps, kind, found)


def fail_early():
    from pyrunc.container.launch import Launch
    from pyrunc.init import steps
    from pyrunc.linux.pid import has_ended

    def failing():
        raise error()

    def late(self, *words):
        assert has_ended(self.pidfd, 10)
        return send_off(self, *words)

    steps.forget_imports = failing
    send_off, Launch._send_off = Launch._send_off, late


def in_finalizer(frame):
    """Nobody would see an error in __del__."""
    while frame and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def break_call(nth):
    process, count = posix.getpid(), [0]

    def watch(frame, event, _):
        if frame.f_code.co_name in ("<genexpr>", "__init__") or in_finalizer(frame):
            return
        if event == "call" and "/pyrunc/" in frame.f_code.co_filename and posix.getpid() == process:
            count[0] += 1
            if count[0] == nth:
                sys.setprofile(None)
                raise error()

    sys.setprofile(watch)
    return count


def mount_resctrl(folder):
    from pyrunc.cgroups import rdt
    from pyrunc.linux.fd import open_at

    rdt.find = lambda: open_at(None, folder, rdt.DIRECTORY)


def main(words):
    limit = words.index("--")
    sys.path.append(words[0])
    kind, value = words[1:limit]
    from pyrunc.cli.main import main

    __import__("pyrunc.container.create")
    count = [0]
    if kind == "step":
        break_step(value)
    elif kind == "early":
        fail_early()
    elif kind == "resctrl":
        mount_resctrl(value)
    else:
        count = break_call(int(value))
    code = main(words[limit + 1 :])
    sys.setprofile(None)
    if value == "0":
        posix.write(2, b"calls: %d\n" % count[0])
    return code


if __name__ == "__main__":
    posix._exit(main(sys.argv[1:]))
