#!/usr/bin/env python3
"""The example that people copy works against a running kveikd.

Covers: client/examples/hello.c
"""
import os
import subprocess
import unittest

import kveik_test
from kveik_test import Daemon


class Example(kveik_test.TestCase):
    def test_hello(self):
        program = kveik_test.BIN / "kveik_hello"
        with Daemon() as daemon:
            done = subprocess.run([program], env={**os.environ, "KVEIK_SOCKET": str(daemon.socket)},
                                  capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout)

    def test_without_a_daemon(self):
        program = kveik_test.BIN / "kveik_hello"
        done = subprocess.run([program], env={**os.environ, "KVEIK_SOCKET": "/tmp/kveik-nobody"},
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("connect", done.stderr)


if __name__ == "__main__":
    unittest.main()
