"""A server over TLS: a WebSocket where the client asks for one, Streamable HTTP (POST alone) otherwise. Prints its port."""
import base64
import hashlib
import json
import os
import socket
import ssl
import struct
import threading

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.environ["PEER_CERT"], os.environ["PEER_KEY"])


def answered(said, way):
    if "id" not in said or "method" not in said:
        return None
    if said["method"] == "initialize":
        version = said["params"]["protocolVersion"]
        result = {
            "protocolVersion": version,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "peer", "version": "1"},
        }
    else:
        result = {"content": [{"type": "text", "text": way}]}
    return json.dumps({"jsonrpc": "2.0", "id": said["id"], "result": result}).encode()


def frame(payload, opcode=1):
    length = len(payload)
    head = bytes([0x80 | opcode, length]) if length < 126 else struct.pack("!BBH", 0x80 | opcode, 126, length)
    return head + payload


def talk_in_frames(stream):
    while True:
        first, second = stream.read(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", stream.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", stream.read(8))
        mask = stream.read(4)
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(stream.read(length)))
        if first & 0x0F == 8:
            return
        if first & 0x0F == 1 and (answer := answered(json.loads(payload), "wss")):
            stream.write(frame(answer))
            stream.flush()


def serve(plain):
    try:
        with context.wrap_socket(plain, server_side=True) as secure, secure.makefile("rwb") as stream:
            while (line := stream.readline()) :
                method = line.split()[0]
                headers = {}
                while (line := stream.readline().strip()):
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                if headers.get("upgrade", "").lower() == "websocket":
                    accept = hashlib.sha1((headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode())
                    stream.write(
                        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        b"Sec-WebSocket-Protocol: mcp\r\nSec-WebSocket-Accept: " + base64.b64encode(accept.digest()) + b"\r\n\r\n"
                    )
                    stream.flush()
                    talk_in_frames(stream)
                    return
                body = stream.read(int(headers.get("content-length", "0")))
                answer = answered(json.loads(body), "https") if method == b"POST" else None
                status = b"200 OK" if answer else (b"202 Accepted" if method == b"POST" else b"405 Method Not Allowed")
                stream.write(
                    b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: "
                    + str(len(answer or b"")).encode() + b"\r\n\r\n" + (answer or b"")
                )
                stream.flush()
    except (OSError, ValueError):
        # The client went, or did not like the certificate.
        pass


listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
