#!/usr/bin/env bash
# Makes the two plotly.js that reports carry, from the versions below: scripts/plotly.sh
#
# The whole of plotly.js takes a browser twice as long to read as a report that needs four of its
# forty kinds of trace. Needs Node 20 and npm; run it when Plotly's major version changes.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$PWD/src/frontrunner/front/vendor
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts plotly.js@4.1.1 esbuild@0.28.1 \
  esbuild-plugin-glsl@1.4.2 esbuild-plugin-inline-css@0.0.1 esbuild-plugin-environment@0.5.0 \
  buffer@6.0.3 stream-browserify@3.0.0 assert@2.1.0

# As plotly.js builds itself (its esbuild-config.js), but for the traces.
cat >build.cjs <<'JS'
const { build } = require("esbuild");
const { environmentPlugin } = require("esbuild-plugin-environment");
const { glsl } = require("esbuild-plugin-glsl");
const css = require("esbuild-plugin-inline-css");
const { version } = require("plotly.js/package.json");

const bundle = (name, traces) => {
  const modules = traces.map((trace) => `require("plotly.js/lib/${trace}")`);
  return build({
    stdin: {
      contents: `const Plotly = require("plotly.js/lib/core");
        Plotly.register([${modules}]); module.exports = Plotly;`,
      resolveDir: __dirname,
    },
    banner: { js: `/* plotly.js v${version}: scatter, ${traces.join(", ")}. MIT License, Plotly, Inc. */` },
    outfile: `${process.argv[2]}/${name}.min.js`,
    format: "iife",
    globalName: "Plotly",
    bundle: true,
    minify: true,
    legalComments: "eof",
    plugins: [(css.default || css)(), glsl({ minify: true }), environmentPlugin({ NODE_DEBUG: false })],
    alias: { regl: "@plotly/regl", stream: "stream-browserify" },
    define: { global: "window", "define.amd": "false" },
    target: "es2016",
  });
};

bundle("plotly-flat", ["scattergl", "heatmap"]);
bundle("plotly-space", ["scattergl", "heatmap", "scatter3d"]);
JS
mkdir -p "$target"
node build.cjs "$target"
cp node_modules/plotly.js/LICENSE "$target/LICENSE"
ls -l "$target"
