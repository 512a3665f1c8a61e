"""An SSH server on loopback, with a small disk of its own."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

SMALL_DISK_BYTES = 256 << 10


@contextmanager
def ssh_server(program, folder, environment):
    """Start `sshd`, and yield the address of this user there; `small` is a folder with no room.

    OpenSSH that root starts wants a user `sshd`; where there is none it gets one, in a mount
    namespace, which nobody else sees. The disk without room is in there, too.
    """
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name]
        subprocess.run(words, check=True)
    (folder / "small").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub", "PidFile": "none", "UsePAM": "no",
        "StrictModes": "no", "PermitRootLogin": "yes", "PasswordAuthentication": "no",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    _write_client(folder, port)
    words = [program, "-D", "-e", "-f", folder / "sshd_config"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            _in_namespace(words, folder) if os.geteuid() == 0 else words,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait(port, server, folder)
            yield f"ssh://{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, 15)
            server.wait(10)


def _write_client(folder, port):
    key = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}")
    (folder / "ssh_config").write_text(
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\n"
        "StrictHostKeyChecking yes\nGlobalKnownHostsFile /dev/null\n"
    )


def _in_namespace(words, folder):
    users = Path("/etc/passwd").read_text()
    if "\nsshd:" not in users:
        users += "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
    (folder / "passwd").write_text(users)
    (folder / "run").mkdir(mode=0o755)
    script = (
        f"mount --bind {folder}/passwd /etc/passwd && mkdir -p /run/sshd && "
        f"mount --bind {folder}/run /run/sshd && chmod 755 /run/sshd && "
        f'mount -t tmpfs -o size={SMALL_DISK_BYTES} none {folder}/small && exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, "sh", *map(str, words)]


def _wait(port, server, folder):
    for _ in range(200):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    sys.stderr.write((folder / "log").read_text())
    raise RuntimeError((folder / "log").read_text().strip().splitlines()[-1:])


def can_mount():
    """Tell whether this user may have a mount namespace with a disk of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    words = ["unshare", "--mount", "true"]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0
