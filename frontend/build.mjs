// Builds the assets that the Python package ships, from the sources here. Same sources, same bytes.

import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const D3 = `/* Contains d3-zoom and modules that it uses. Copyright 2010-2022 Mike Bostock.
Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby
granted, provided that the above copyright notice and this permission notice appear in all copies.
THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT,
INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF
THIS SOFTWARE. */`;
const TARGET = new URL("../src/dora/assets/", import.meta.url);
const source = (name) => readFile(new URL(name, import.meta.url), "utf8");

// A test compares this with the sources: whoever changes them has to build again.
const names = ["build.mjs", "package-lock.json", ...(await readdir(new URL("src", import.meta.url))).sort().map((name) => `src/${name}`)];
const digest = createHash("sha256");
for (const name of names) digest.update(await source(name));

const bundle = await build({
  entryPoints: ["src/page.ts"],
  bundle: true,
  format: "iife",
  target: "es2022",
  charset: "utf8",
  minify: true,
  banner: { js: D3 },
  write: false,
});
const style = await build({ entryPoints: ["src/page.css"], minify: true, charset: "utf8", write: false });

const fill = {
  DIGEST: digest.digest("hex"),
  SCRIPT: bundle.outputFiles[0].text,
  STYLE: style.outputFiles[0].text,
};
const page = (await source("src/page.html")).replace(/@(DIGEST|SCRIPT|STYLE)@/g, (_, name) => fill[name].trim());

const { version } = JSON.parse(await source("node_modules/elkjs/package.json"));
const engine = await source("node_modules/elkjs/lib/elk-worker.min.js");
const notice = `/* elkjs ${version}, https://github.com/kieler/elkjs, licence EPL-2.0: https://www.eclipse.org/legal/epl-2.0 */\n`;

await mkdir(TARGET, { recursive: true });
await writeFile(new URL("graph.html", TARGET), page);
await writeFile(new URL("elk.js", TARGET), notice + engine);
