#!/usr/bin/env python3
"""Prefill on one vLLM server, decode on another one: what a proxy has to do for Kveik.

    proxy.py PREFILL-URL DECODE-URL [PORT]

Each request goes to the prefill server with one token to make; the kv_transfer_params of its
answer go with the request to the decode server, whose answer is returned. Nothing else is passed
on: the KV goes through the daemon of the node.
"""
import http.server
import json
import sys
import urllib.error
import urllib.request

LIMIT_S = 300
PORT = 8000


def ask(address, path, body):
    """(status, document) of a server."""
    asked = urllib.request.Request(address + path, json.dumps(body).encode(),
                                   {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=LIMIT_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {"error": error.read().decode(errors="replace")}
    except OSError as error:
        return 502, {"error": f"{address}: {error}"}


def handed_over(prefill, decode, path, body):
    """(status, document) for a client."""
    first = body | {"kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False}}
    first["sampling_params"] = body.get("sampling_params", {}) | {"max_tokens": 1}
    status, answer = ask(prefill, path, first)
    if status != 200:
        return status, answer
    return ask(decode, path, body | {"kv_transfer_params": answer.get("kv_transfer_params")})


def make(prefill, decode, port=0):
    """An HTTP server, to be served by the caller."""
    class Handler(http.server.BaseHTTPRequestHandler):
        """One request."""

        def do_POST(self):  # pylint: disable=invalid-name
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = handed_over(prefill, decode, self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):  # pylint: disable=arguments-differ
            """Nothing: the servers have logs."""

    return http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else PORT).serve_forever()
