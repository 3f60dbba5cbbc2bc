"""A bad network for tests: python3 proxy.py PORT TARGET_PORT. Passes HTTP requests on, but fails as the file `mode` in the working folder
says: ok, down (connections are closed), 503 (every second request), cut (answers lose their last half), flip (bodies of PUT are damaged)."""
import http.client
import http.server
import sys


def mode():
    try:
        with open("mode", encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return "ok"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    count = 0

    def answer(self):
        how = mode()
        Handler.count += 1
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with open("requests", "a", encoding="utf-8") as f:
            f.write(f"{self.command} {self.path} {len(body)}\n")
        if how == "down":
            self.close_connection = True
            return
        if how == "503" and Handler.count % 2:
            text = b"<Error><Code>SlowDown</Code></Error>"
            self.send_response(503)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            return
        if how == "flip" and self.command == "PUT" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]))
        c.request(self.command, self.path, body, {k: v for k, v in self.headers.items() if k.lower() != "content-length"} | {"Content-Length": str(len(body))})
        r = c.getresponse()
        data = r.read()
        self.send_response(r.status)
        for k, v in r.getheaders():
            if k.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(k, v)
        self.send_header("content-length", r.getheader("content-length", "0") if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        if how == "cut" and self.command == "GET" and "list-type" not in self.path:
            data = data[:len(data) // 2]
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
