// Watches nodes until one is connected, applies an app, waits until it is healthy, deletes it.
//
// Usage: node deploy.mjs PROTO_DIR HOST:PORT [VERSION]
// VERSION: a resource version of nodes that was seen before; the watch continues from there.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const PROJECT = "projects/default";
const APP = `${PROJECT}/apps/from-node`;
const CALL_MS = 10_000; // the longest that one call may take
const WAIT_MS = 60_000; // the longest that a state is waited for
const BACKOFF_MS = 100;
const BACKOFF_MAX_MS = 5_000;
// It may or may not have happened: with the same request id a repeat does no harm.
const TRY_AGAIN = new Set([grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED]);

// What is read of google.rpc here; proto-loader does not bring it.
const rpc = protobuf.parse(`syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message BadRequest {
    message FieldViolation { string field = 1; string description = 2; }
    repeated FieldViolation field_violations = 1;
  }`).root;

/** Waits a while at each call, longer each time, never two clients alike. */
function backoff() {
  let longest = BACKOFF_MS;
  return async () => {
    await sleep(Math.random() * longest);
    longest = Math.min(2 * longest, BACKOFF_MAX_MS);
  };
}

/** The status with its google.rpc details: one reason for programs, and for bad input each field. */
function explain(error) {
  const lines = [`${grpc.status[error.code]}: ${error.details}`];
  for (const bytes of error.metadata?.get("grpc-status-details-bin") ?? []) {
    for (const detail of rpc.lookupType("Status").decode(bytes).details) {
      const name = detail.typeUrl.split("/").pop();
      if (name === "google.rpc.ErrorInfo") {
        const info = rpc.lookupType("ErrorInfo").decode(detail.value);
        lines.push(`  reason: ${info.reason} (${info.domain})`);
      } else if (name === "google.rpc.BadRequest") {
        const faults = rpc.lookupType("BadRequest").decode(detail.value).fieldViolations;
        lines.push(...faults.map((fault) => `  ${fault.field}: ${fault.description}`));
      }
    }
  }
  return lines.join("\n");
}

/** One call with a deadline. */
function call(client, method, request) {
  return new Promise((resolve, reject) => {
    const options = { deadline: Date.now() + CALL_MS };
    client[method](request, options, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

/** Calls a method that changes something, again until there is an answer. The request id makes all tries one. */
async function change(client, method, request) {
  const whole = { ...request, requestId: randomUUID() };
  const end = Date.now() + WAIT_MS;
  const wait = backoff();
  for (;;) {
    try {
      return await call(client, method, whole);
    } catch (error) {
      if (!TRY_AGAIN.has(error.code) || Date.now() > end) throw error;
      await wait();
    }
  }
}

/** Changes after a version, for WAIT_MS. Without one: first the present state as ADDED, then a BOOKMARK. */
async function* watch(client, method, resourceVersion = "") {
  const end = Date.now() + WAIT_MS;
  const wait = backoff();
  while (Date.now() < end) {
    const stream = client[method]({ parent: PROJECT, resourceVersion }, { deadline: end });
    try {
      for await (const told of stream) {
        // Should the stream break, the next one continues from here.
        resourceVersion = told.resourceVersion;
        yield told;
      }
    } catch (error) {
      if (error.code === grpc.status.OUT_OF_RANGE) {
        // Too old, or we were too slow: whoever keeps what was told drops what the new ADDED do not name.
        console.log("that version is no longer known: from the present state on");
        resourceVersion = "";
      } else if (!TRY_AGAIN.has(error.code)) {
        throw error;
      }
    } finally {
      stream.cancel();
    }
    await wait();
  }
  throw new Error(`nothing came of it within ${WAIT_MS} ms`);
}

async function connectedNode(nodes, version) {
  for await (const told of watch(nodes, "watchNodes", version)) {
    if (told.node?.status?.connection?.connected) {
      console.log(`nodes as of ${told.resourceVersion}`);
      return told.node.metadata.name;
    }
  }
}

function app(program) {
  const service = { name: "main", process: { program, args: ["1000000"] } };
  return { metadata: { name: APP }, spec: { services: [service] } };
}

/** Until the scheduler has looked at this generation of the app and every instance of it is ready. */
async function waitHealthy(apps, generation) {
  for await (const told of watch(apps, "watchApps")) {
    const status = told.app?.status;
    if (told.app?.metadata.name !== APP || !status || BigInt(status.observedGeneration) < BigInt(generation)) continue;
    if (status.conditions.some((one) => one.type === "Available" && one.status === "TRUE")) return;
  }
}

/** Mutual TLS by the files that SKERRY_TLS_CA, _KEY and _CERT name; without them plain HTTP/2, for a server with --insecure. */
function openCredentials() {
  const files = ["CA", "KEY", "CERT"].map((name) => process.env[`SKERRY_TLS_${name}`]);
  if (!files.every(Boolean)) return grpc.credentials.createInsecure();
  return grpc.credentials.createSsl(...files.map((file) => readFileSync(file)));
}

async function main(protoDir, address, version) {
  const files = ["skerry/registry/v1/registry.proto", "skerry/scheduler/v1/scheduler.proto"];
  const options = { includeDirs: [protoDir], longs: String, enums: String, defaults: true, oneofs: true };
  const { skerry } = grpc.loadPackageDefinition(await loader.load(files, options));
  const credentials = openCredentials();
  const nodes = new skerry.registry.v1.NodeService(address, credentials);
  const apps = new skerry.scheduler.v1.AppService(address, credentials);
  try {
    console.log(`${await connectedNode(nodes, version)} is connected`);

    try {
      await change(apps, "updateApp", { app: app(""), allowMissing: true });
    } catch (error) {
      console.log(explain(error));
    }

    const applied = await change(apps, "updateApp", { app: app("sleep"), allowMissing: true });
    await waitHealthy(apps, applied.app.metadata.generation);
    console.log(`${APP} is healthy`);
    await change(apps, "deleteApp", { name: APP });
  } finally {
    nodes.close();
    apps.close();
  }
}

await main(...process.argv.slice(2));
