// Perfetto's own importer for tests: the WebAssembly build in a folder of the Perfetto UI, on a Unix socket.
//
//   usage: node trace_processor.mjs UI_FOLDER TRACE SOCKET
//
// Prints "ready" when the trace is read. The other side is Perfetto's own client, TraceProcessor(remote=SOCKET); when
// it has gone, this ends.
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import vm from "node:vm";

const [folder, trace, socket] = process.argv.slice(2);
const APPEND_TRACE_DATA = 1;
const FINALIZE_TRACE_DATA = 2;
const PIECE = 8 << 20;

// What the bundle looks for in a browser's worker. It refuses to run in what looks like Node.
process.type = "renderer";
globalThis.self = globalThis;
globalThis.location = { href: "http://localhost/engine_bundle.js", protocol: "http:", host: "localhost" };
globalThis.WorkerGlobalScope = class {};
globalThis.XMLHttpRequest = class {
  open(_method, url) {
    this.file = path.join(folder, path.basename(url));
  }
  send() {
    this.response = new Uint8Array(fs.readFileSync(this.file)).buffer;
  }
};
console.warn = () => {};
vm.runInThisContext(fs.readFileSync(path.join(folder, "engine_bundle.js"), "utf8"), { filename: "engine_bundle.js" });

// The engine takes and gives the bytes of TraceProcessorRpcStream, whose field 1 is a message of length and content.
let answered = () => {};
const engine = { onmessage: null, postMessage: (bytes) => answered(Buffer.from(bytes)) };
globalThis.onmessage({ data: engine });

function varint(number) {
  const bytes = [];
  while (number > 127) {
    bytes.push((number % 128) | 128);
    number = Math.floor(number / 128);
  }
  return Buffer.from([...bytes, number]);
}

function field(number, bytes) {
  return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
}

function request(method, content = Buffer.alloc(0)) {
  return field(1, Buffer.concat([Buffer.from([2 * 8, method]), content]));
}

function ask(bytes) {
  return new Promise((resolve) => {
    answered = resolve;
    engine.onmessage({ data: new Uint8Array(bytes) });
  });
}

await new Promise((resolve) => setTimeout(resolve, 50)); // the engine takes its place in a microtask
const file = fs.openSync(trace, "r");
const piece = Buffer.alloc(PIECE);
for (let size; (size = fs.readSync(file, piece)) > 0; ) {
  await ask(request(APPEND_TRACE_DATA, field(101, piece.subarray(0, size))));
}
await ask(request(FINALIZE_TRACE_DATA));

net
  .createServer((client) => {
    answered = (bytes) => client.write(bytes);
    client.on("data", (bytes) => engine.onmessage({ data: new Uint8Array(bytes) }));
    client.on("close", () => process.exit(0));
  })
  .listen(socket, () => console.log("ready"));
