// Sums in G1 of BN254 by ffjavascript (the arithmetic of snarkjs, WebAssembly), for
// benchmarks/native_kernels.py: same arguments and output as gnark.go. It uses as many threads as
// there are processors, or one.
import { buildBn128 } from "ffjavascript";
import { readFileSync } from "node:fs";

const [points, words] = process.argv.slice(2, 4).map((path) => readFileSync(path));
const [n, threads, runs] = process.argv.slice(4, 7).map(Number);
const curve = await buildBn128(threads === 1);
const bases = new Uint8Array(64 * n);
const scalars = new Uint8Array(32 * n);
for (let i = 0; i < n; i++) {
  bases.set(curve.G1.fromRprUncompressed(points.subarray(64 * i, 64 * i + 64), 0), 64 * i);
  scalars.set(words.subarray(32 * i, 32 * i + 32).toReversed(), 32 * i);
}
const ms = [];
let sum;
for (let run = 0; run < runs; run++) {
  const started = performance.now();
  sum = await curve.G1.multiExpAffine(bases, scalars);
  ms.push(performance.now() - started);
}
const out = new Uint8Array(64);
curve.G1.toRprUncompressed(out, 0, sum);
console.log(JSON.stringify({ ms, sum: Buffer.from(out).toString("hex") }));
await curve.terminate();
