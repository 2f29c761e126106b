// Builds the assets that the Python package ships, from the sources here. Same sources, same bytes.

import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const TARGET = new URL("../src/dora/assets/", import.meta.url);
const LICENSES = new URL("../licenses/", import.meta.url); // of what the assets contain; part of the wheel
const source = (name) => readFile(new URL(name, import.meta.url), "utf8");

// A test compares this with the sources: whoever changes them has to build again.
const names = ["build.mjs", "package-lock.json", ...(await readdir(new URL("src", import.meta.url))).sort().map((name) => `src/${name}`)];
const digest = createHash("sha256");
for (const name of names) digest.update(await source(name));

const script = (name) =>
  build({
    entryPoints: [`src/${name}`],
    bundle: true,
    format: "iife",
    target: "es2022",
    charset: "utf8",
    minify: true,
    metafile: true,
    write: false,
  });
const style = (name) =>
  build({ entryPoints: [`src/${name}`], bundle: true, minify: true, charset: "utf8", metafile: true, write: false });
const scripts = { page: await script("page.ts"), dashboard: await script("dashboard.tsx") };
const styles = { page: await style("page.css"), dashboard: await style("dashboard.css") };

const { version } = JSON.parse(await source("node_modules/elkjs/package.json"));
const elk = `elkjs ${version}, https://github.com/kieler/elkjs, licence EPL-2.0: https://www.eclipse.org/legal/epl-2.0`;

/** Return the licences of what is in some bundles, each with the packages that have it. */
async function licences(...bundles) {
  const inputs = bundles.flatMap((bundle) => Object.keys(bundle.metafile.inputs));
  const packages = new Set(inputs.flatMap((path) => path.match(/(?<=node_modules\/)[^@/]+/) ?? []));
  packages.delete("elkjs");
  const byLicense = new Map();
  for (const name of [...packages].sort()) {
    const text = (await source(`node_modules/${name}/LICENSE`)).trim();
    byLicense.set(text, [...(byLicense.get(text) ?? []), name]);
  }
  return [...byLicense].map(([text, names]) => `Contains ${names.join(", ")}.\n\n${text}`).join("\n\n");
}

const notices = await licences(scripts.page);
const fill = {
  DIGEST: digest.digest("hex"),
  SCRIPT: `/*\nContains ${elk}\n\n${notices}\n*/\n${scripts.page.outputFiles[0].text}`,
  STYLE: styles.page.outputFiles[0].text,
};
const filled = (page) => page.replace(/@(DIGEST|SCRIPT|STYLE)@/g, (_, name) => fill[name].trim());
const dashboardNotices = await licences(scripts.dashboard, styles.dashboard);

const engine = await source("node_modules/elkjs/lib/elk-worker.min.js");

await mkdir(TARGET, { recursive: true });
await writeFile(new URL("graph.html", TARGET), filled(await source("src/page.html")));
await writeFile(new URL("dashboard.html", TARGET), filled(await source("src/dashboard.html")));
await writeFile(
  new URL("dashboard.js", TARGET),
  `/*\nContains ${elk}\n\n${dashboardNotices}\n*/\n${scripts.dashboard.outputFiles[0].text}`,
);
await writeFile(new URL("dashboard.css", TARGET), styles.dashboard.outputFiles[0].text);
await writeFile(new URL("elk.js", TARGET), `/* ${elk} */\n${engine}`);
await mkdir(LICENSES, { recursive: true });
await writeFile(new URL("d3.txt", LICENSES), `${notices}\n`);
await writeFile(new URL("dashboard.txt", LICENSES), `${dashboardNotices}\n`);
await writeFile(new URL("elkjs.md", LICENSES), await source("node_modules/elkjs/LICENSE.md"));
