"""Prints what vLLM says about its blocks: python listen.py ENDPOINT

One JSON object a line: the kind of an event, its medium, and how many blocks it names. The first
line says that the socket is connected. Ends when nobody reads.
"""
import json
import sys

import msgspec
import zmq


def main():
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        subscriber.connect(sys.argv[1])
        print(json.dumps({"kind": "connected"}), flush=True)
        while True:
            _topic, _number, payload = subscriber.recv_multipart()
            for event in msgspec.msgpack.decode(payload)[1]:
                told = {"kind": event["type"], "medium": event.get("medium"),
                        "blocks": len(event.get("block_hashes", ())),
                        "tokens": len(event.get("token_ids", ()))}
                print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
