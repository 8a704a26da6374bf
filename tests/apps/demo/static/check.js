"use strict";

const results = {};
const address = (path) => new URL(path, document.baseURI);

function show(name, value) {
  results[name] = value;
  const row = document.getElementById("results").insertRow();
  row.appendChild(document.createElement("th")).textContent = name;
  row.insertCell().textContent = value;
}

function echo() {
  return new Promise((resolve, reject) => {
    const url = address("ws");
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    socket.onopen = () => socket.send("hello");
    socket.onmessage = (event) => {
      socket.close(1000);
      resolve("echoed " + event.data);
    };
    socket.onerror = () => reject(new Error("the socket broke"));
  });
}

function watch(count) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(address(`events?count=${count}&interval=0.3`));
    const times = [];
    source.onmessage = () => {
      times.push(performance.now());
      if (times.length < count) return;
      source.close();
      const apart = times.at(-1) - times[0] > 300;
      resolve(`${count} events, ${apart ? "one by one" : "all at once"}`);
    };
    source.onerror = () => reject(new Error("the stream broke"));
  });
}

async function upload(size) {
  const answer = await fetch(address("upload"), { method: "POST", body: new Uint8Array(size) });
  return `${(await answer.json()).bytes} bytes counted`;
}

async function main() {
  show("protocol", performance.getEntriesByType("navigation")[0].nextHopProtocol);
  for (const [name, ask] of [["WebSocket", echo], ["event stream", () => watch(3)], ["upload", () => upload(200000)]]) {
    show(name, await ask().catch((error) => "failed: " + error.message));
  }
  document.body.dataset.results = JSON.stringify(results);
}

main();
