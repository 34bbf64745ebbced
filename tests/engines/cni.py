"""The smallest network plug-in that engines can call: a pod gets eth0, whose other end is in the pod too."""

import json
import sys
from pathlib import Path

ADDRESS = "10.99.0.2/24"
CONFIG = {"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "pod"}]}
PLUGIN = f"""#!{sys.executable} -I
import json, os, subprocess, sys

config = json.load(sys.stdin)
version, command = config["cniVersion"], os.environ["CNI_COMMAND"]
if command == "VERSION":
    print(json.dumps({{"cniVersion": version, "supportedVersions": ["0.3.0", "0.3.1", "0.4.0"]}}))
if command == "ADD":
    namespace, name, address = os.environ["CNI_NETNS"], os.environ["CNI_IFNAME"], "{ADDRESS}"
    script = f"ip link add {{name}} type veth peer other; ip link set other up; ip address add {{address}} dev {{name}}"
    if config["type"] == "loopback":
        script, address = ":", "127.0.0.1/8"
    script += f"; ip link set {{name}} up"
    subprocess.run(["nsenter", f"--net={{namespace}}", "sh", "-ec", script], check=True, stdout=sys.stderr)
    interfaces = [{{"name": name, "sandbox": namespace}}]
    addresses = [{{"version": "4", "address": address, "interface": 0}}]
    print(json.dumps({{"cniVersion": version, "interfaces": interfaces, "ips": addresses}}))
"""


def install(folder: Path) -> None:
    """In `plugins` and `networks` there."""
    for name in ("plugins", "networks"):
        (folder / name).mkdir()
    for name in ("pod", "loopback"):  # containerd wants one for lo
        program = folder / "plugins" / name
        program.write_text(PLUGIN)
        program.chmod(0o755)
    (folder / "networks/pods.conflist").write_text(json.dumps(CONFIG))
