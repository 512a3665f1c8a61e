"""A browser without a window, spoken to in the DevTools protocol over a pipe."""

import base64
import json
import os
import subprocess
import time

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """Chromium in a process of its own; ends with the block."""

    def __init__(self, program, folder, environment, *flags):
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()

        def give_pipes():
            # The protocol is spoken on descriptors 3 and 4. Copies first: either may be one of them.
            ours = os.dup(commands), os.dup(answers)
            os.dup2(ours[0], 3)
            os.dup2(ours[1], 4)

        self._process = subprocess.Popen(
            [program, *FLAGS, *flags, f"--user-data-dir={folder}"],
            env=environment,
            preexec_fn=give_pipes,  # noqa: PLW1509 - nothing else can place descriptors
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._number, self._rest, self.messages = 0, b"", []
        try:
            self._session = self._attach()
            self.ask("Runtime.enable")
        except BaseException:  # nobody else can end it
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(30)
        os.close(self._commands)
        os.close(self._answers)

    def _attach(self):
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        return self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def open(self, url):
        self.ask("Page.navigate", url=url)

    def size(self, width, height=900):
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def run(self, script):
        """Return what a JavaScript expression gives, awaited."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script, seconds=60):
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"{script} stays {found!r}"
            time.sleep(0.05)
        return found

    def screenshot(self):
        """Return the whole page as PNG."""
        picture = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(picture["data"])

    def ask(self, method, **parameters):
        return self._ask(method, self._session, **parameters)

    def _ask(self, method, session=None, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.messages.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _next(self):
        while b"\0" not in self._rest:
            block = os.read(self._answers, 1 << 20)
            assert block, "the browser ended"
            self._rest += block
        text, self._rest = self._rest.split(b"\0", 1)
        return json.loads(text)
