"use strict";

const get = (id) => document.getElementById(id);
const address = (path) => new URL(path, document.baseURI);

function log(id, line) {
  get(id).textContent += line + "\n";
  get(id).scrollTop = get(id).scrollHeight;
}

async function showInfo() {
  const facts = await (await fetch(address("api/info"))).json();
  get("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const row = document.createElement("tr");
    const head = row.appendChild(document.createElement("th"));
    const cell = row.appendChild(document.createElement("td"));
    head.textContent = name;
    if (name === "started") value = new Date(value * 1000).toISOString();
    cell.textContent = typeof value === "object" ? JSON.stringify(value) : value;
    return row;
  }));
}

let socket = null;

function toggleSocket() {
  if (socket) {
    socket.close();
    return;
  }
  const url = address("ws");
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url);
  const send = get("ws-form").querySelector("button");
  socket.onopen = () => {
    log("ws-log", "open");
    send.disabled = false;
    get("ws-open").textContent = "Close";
  };
  socket.onmessage = (event) => log("ws-log", "← " + event.data);
  socket.onclose = (event) => {
    log("ws-log", "closed, code " + event.code);
    send.disabled = true;
    get("ws-open").textContent = "Open";
    socket = null;
  };
}

function watchEvents() {
  const count = 10;
  const source = new EventSource(address(`events?count=${count}&interval=0.5`));
  get("events-log").textContent = "";
  get("events").disabled = true;
  const end = (line) => {
    source.close();
    get("events").disabled = false;
    log("events-log", line);
  };
  source.onmessage = (event) => {
    log("events-log", new Date().toISOString().slice(11, 23) + " " + event.data);
    if (JSON.parse(event.data).n === count) end("end");
  };
  source.onerror = () => end("the stream broke");
}

get("info").onclick = showInfo;
get("ws-open").onclick = toggleSocket;
get("events").onclick = watchEvents;
get("ws-form").onsubmit = (event) => {
  event.preventDefault();
  socket.send(get("ws-text").value);
  log("ws-log", "→ " + get("ws-text").value);
};
get("upload").onsubmit = async (event) => {
  event.preventDefault();
  const file = event.target.querySelector("input").files[0];
  const answer = await fetch(address("upload"), { method: "POST", body: file });
  log("upload-log", answer.ok ? JSON.stringify(await answer.json()) : "refused: " + answer.status);
};
showInfo();
