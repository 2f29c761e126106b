// The dataflow file; the lines about the selected node stand out.

import { useEffect, useRef } from "preact/hooks";
import type { Source } from "./model";

export function SourcePane(props: { file: string | null; source: Source | null; node: string | null }) {
  const list = useRef<HTMLDivElement>(null);
  const { source } = props;
  const range = props.node === null ? undefined : (source?.lines[props.node] ?? source?.lines[props.node.split(".")[0]!]);
  const [first, last] = range ?? [0, -1];
  useEffect(() => {
    if (first) list.current?.querySelector(".chosen")?.scrollIntoView({ block: "center" });
  }, [first, source]);
  return (
    <section class="pane side source" aria-label="Dataflow file">
      <h2>{props.file?.split("/").slice(-2).join("/") ?? "Dataflow file"}</h2>
      {source ? (
        <div class="code" ref={list} tabIndex={0}>
          {source.text.split("\n").map((line, index) => (
            <div key={index} class={index + 1 >= first && index + 1 <= last ? "chosen" : ""}>
              <span class="number">{index + 1}</span>
              <span>{line || " "}</span>
            </div>
          ))}
        </div>
      ) : (
        <p class="quiet">{props.file ? `${props.file} is not on the machine of this server.` : "This dataflow did not come from a file."}</p>
      )}
    </section>
  );
}
