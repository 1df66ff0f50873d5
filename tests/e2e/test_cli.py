#!/usr/bin/env python3
"""The frame of `kveik`, status and doctor."""
import json
import os
import subprocess
import tempfile
import unittest

import kveik_test
from kveik_test import FAILED, GOOD, UNREACHABLE, USAGE, Daemon, kveik

NOWHERE = "/nonexistent/kveik.sock"


class Frame(kveik_test.TestCase):
    def test_help(self):
        text = self.good("--help")
        for word in ("status", "doctor", "replay", "--socket", "--json", "3 the daemon is not"):
            self.assertIn(word, text)
        self.assertNotIn("replay-engine", text)

    def test_help_of_commands(self):
        for command in ("status", "doctor", "replay"):
            text = self.good(command, "--help")
            for word in ("--socket", "--json", "default:", "Exit codes", "With --json"):
                self.assertIn(word, " ".join(text.split()), command)

    def test_version(self):
        self.assertRegex(self.good("--version"), r"^kveik \d+\.\d+\.\d+\n$")

    def test_wrong_usage(self):
        self.refused(USAGE, ["which command"])
        self.refused(USAGE, ["did you mean `kveik status'"], "statsu")
        self.refused(USAGE, ["did you mean `kveik doctor'"], "doc")
        self.refused(USAGE, ["--help"], "xylophone")
        self.refused(USAGE, ["--json"], "status", "--jsn")
        self.refused(USAGE, ["unexpected argument"], "status", "now")
        self.refused(USAGE, ["\\x1b"], "\x1b[31mstatus!!!!!")
        self.refused(USAGE, ["a part of `kveik replay'"], "replay-engine")

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full")
    def test_output_that_cannot_be_written(self):
        with Daemon() as daemon, open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([kveik_test.BIN / "kveik", "status", "--socket", daemon.socket],
                                  stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, FAILED)
        self.assertIn("could not be written", done.stderr)


class Status(kveik_test.TestCase):
    def test_no_daemon(self):
        done = self.refused(UNREACHABLE, [NOWHERE, "What to do"], "status", socket=NOWHERE)
        self.assertEqual(done.stdout, "")
        done = self.refused(UNREACHABLE, [], "status", "--json", socket=NOWHERE)
        self.assertEqual(json.loads(done.stdout)["state"], "unreachable")

    def test_a_daemon(self):
        with Daemon() as daemon:
            text = self.good("status", socket=daemon.socket)
            status = self.good_json("status", socket=daemon.socket)
        for word in ("daemon", "sessions", "CPU tier", "hit ratio", "256MiB", str(daemon.socket)):
            self.assertIn(word, text)
        self.assertEqual(status["state"], "up")
        self.assertEqual(status["pid"], daemon.process.pid)
        self.assertEqual(status["cpu"]["budget_bytes"], 256 << 20)
        self.assertEqual(status["index"]["blocks"], 0)

    def test_options_on_either_side(self):
        with Daemon() as daemon:
            one = kveik("--json", "--socket", daemon.socket, "status")
            two = kveik("status", "--json", f"--socket={daemon.socket}")
        for done in (one, two):
            self.assertEqual(done.returncode, GOOD, done.stderr)
            self.assertEqual(json.loads(done.stdout)["state"], "up")


class Doctor(kveik_test.TestCase):
    def findings(self, done):
        return {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}

    def test_with_a_daemon(self):
        with Daemon() as daemon:
            done = kveik("doctor", "--json", socket=daemon.socket)
            self.assertEqual(done.returncode, GOOD, done.stdout + done.stderr)
            findings = self.findings(done)
            for check in ("socket", "connection", "versions", "shared memory", "sealed memory"):
                self.assertEqual(findings[check]["result"], "ok", findings[check])
            # what the machine may forbid is a warning, never wrong bytes
            for check in ("adopted memory", "copied memory"):
                self.assertIn(findings[check]["result"], ("ok", "warning"), findings[check])
            text = self.good("doctor", socket=daemon.socket)
            self.assertIn("0 problems", text)

    def test_a_disk_tier(self):
        with Daemon("--disk-segment-bytes", "16MiB", disk="256MiB") as daemon:
            findings = self.findings(kveik("doctor", "--json", socket=daemon.socket))
            self.assertEqual(findings["disk tier"]["result"], "ok", findings["disk tier"])
            self.assertIn(str(daemon.folder / "disk"), findings["disk tier"]["finding"])
            # what the machine may lack is a warning
            for check in ("disk I/O", "direct disk I/O", "disk room"):
                self.assertIn(findings[check]["result"], ("ok", "warning"), findings[check])
            self.assertFalse([name for name in os.listdir(daemon.folder / "disk")
                              if "doctor" in name])

    def test_a_disk_by_threads_and_none(self):
        with Daemon("--disk-segment-bytes", "16MiB", "--disk-io", "threads",
                    disk="256MiB") as daemon:
            findings = self.findings(kveik("doctor", "--json", socket=daemon.socket))
        self.assertEqual(findings["disk I/O"]["result"], "note", findings["disk I/O"])
        self.assertIn("--disk-io", findings["disk I/O"]["advice"])
        with Daemon() as daemon:
            findings = self.findings(kveik("doctor", "--json", socket=daemon.socket))
        self.assertEqual(findings["disk tier"]["result"], "note")
        self.assertIn("turned off", findings["disk tier"]["finding"])
        self.assertIn(findings["disk I/O"]["result"], ("ok", "warning"))

    @unittest.skipUnless(os.access("/dev/shm", os.W_OK), "no /dev/shm")
    def test_memory_in_a_file(self):
        with tempfile.TemporaryDirectory(prefix="kveik-e2e-", dir="/dev/shm") as folder:
            with Daemon("--cpu-file", f"{folder}/pool") as daemon:
                findings = self.findings(kveik("doctor", "--json", socket=daemon.socket))
        finding = findings["CPU tier's file"]
        self.assertEqual(finding["result"], "ok", finding)
        self.assertIn(f"{folder}/pool is on tmpfs", finding["finding"])
        self.assertIn(findings["/dev/shm"]["result"], ("ok", "warning"))

    def test_without_a_daemon(self):
        done = kveik("doctor", "--json", socket=NOWHERE)
        self.assertEqual(done.returncode, UNREACHABLE, done.stdout + done.stderr)
        findings = self.findings(done)
        self.assertEqual(findings["socket"]["result"], "skipped")
        self.assertIn("kveikd", findings["socket"]["advice"])
        self.assertIn(findings["disk I/O"]["result"], ("ok", "warning"))

    def test_a_path_that_is_no_socket(self):
        done = kveik("doctor", "--json", socket=__file__)
        self.assertEqual(done.returncode, FAILED, done.stdout + done.stderr)
        self.assertEqual(self.findings(done)["socket"]["result"], "problem")


if __name__ == "__main__":
    unittest.main()
