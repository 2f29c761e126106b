// The log: what comes, and by a filter also what has been.

import { memo } from "preact/compat";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { useFeed } from "./hooks";
import { clock, LEVELS, type Line, whole } from "./model";
import type { Feed } from "./feed";

const SHOWN = 500; // entries in the page
const SEARCH_AFTER = 250; // milliseconds after the last change of the filter
const SEARCH_AGAIN = 2000; // milliseconds after an answer, if lines have come that the page did not get

/** What a search has found, and how far the page was when it asked. */
interface Old {
  entries: Line[];
  total: number;
  complete?: boolean;
  arrived: number;
  skipped: number;
}

interface Filter {
  node: string;
  level: string;
  text: string;
}

export function LogPane(props: { feed: Feed; nodes: string[]; node: string; onNode: (node: string) => void }) {
  const { feed } = props;
  useFeed(feed, "lines");
  useFeed(feed, "connection");
  const [level, setLevel] = useState("stdout");
  const [text, setText] = useState("");
  const [old, setOld] = useState<Old | null>(null);
  const [follow, setFollow] = useState(true);
  const list = useRef<HTMLDivElement>(null);
  const filter: Filter = { node: props.node, level, text };
  const filtered = props.node !== "" || level !== "stdout" || text !== "";

  const search = (wait: number) => {
    let wanted = true;
    const timer = setTimeout(() => {
      const { arrived, skipped } = feed;
      void feed.search(props.node, level, text).then((answer) => wanted && setOld({ ...answer, arrived, skipped }));
    }, wait);
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
  };
  useEffect(() => {
    setOld(null);
    if (filtered && !feed.gone) return search(SEARCH_AFTER); // otherwise the page searches what it has
  }, [feed, props.node, level, text]);
  const unseen = unseenLines(feed, old);
  useEffect(() => {
    if (old && unseen && !feed.gone) return search(SEARCH_AGAIN);
  }, [feed, feed.gone, props.node, level, text, old, unseen > 0]);

  const recent = old ? feed.lines.slice(feed.lines.length - Math.min(feed.arrived - old.arrived, feed.lines.length)) : feed.lines;
  const fitting = filtered ? recent.filter((line) => fits(line, filter)) : recent;
  const last = old?.entries[old.entries.length - 1]?.time ?? -1;
  const all = old ? [...old.entries, ...fitting.filter((line) => line.time > last)] : fitting;
  const shown = all.slice(-SHOWN);
  // Nodes may have come since the start, and the log has those that went.
  const ids = new Set([...props.nodes, ...(feed.state?.nodes ?? []).map(({ id }) => id), props.node]);
  const nodes = [...ids].filter((id) => id !== "" && id !== "dora");

  useLayoutEffect(() => {
    if (follow && list.current) list.current.scrollTop = list.current.scrollHeight;
  });
  const onScroll = () => {
    if (!list.current) return;
    const { scrollTop, scrollHeight, clientHeight } = list.current;
    setFollow(scrollHeight - scrollTop - clientHeight < 30);
  };

  return (
    <section class="pane logs" id="logs" aria-label="Logs">
      <div class="bar">
        <h2>Logs</h2>
        <select aria-label="Node" value={props.node} onChange={(event) => props.onNode(event.currentTarget.value)}>
          <option value="">all nodes</option>
          {[...nodes, "dora"].map((node) => (
            <option key={node} value={node}>{node}</option>
          ))}
        </select>
        <select aria-label="Level" value={level} onChange={(event) => setLevel(event.currentTarget.value)}>
          {LEVELS.map((name) => (
            <option key={name} value={name}>{name === "stdout" ? "all levels" : name === "error" ? "errors" : `${name} and worse`}</option>
          ))}
        </select>
        <input type="search" placeholder="Text" aria-label="Text" value={text} onInput={(event) => setText(event.currentTarget.value)} />
        <span class="quiet" role="status">
          {(filtered ? [old && found(old), unseen > 0 && notLookedAt(unseen)] : [feed.skipped > 0 && `${whole(feed.skipped)} not shown`]).filter(Boolean).join(", ")}
        </span>
        {!follow && <button class="button" onClick={() => setFollow(true)}>Follow</button>}
      </div>
      <div class="lines" style={{ "--names": `${Math.max(4, ...nodes.map((id) => id.length), ...(nodes.length ? [] : shown.map(({ node }) => node?.length ?? 0)))}ch` }} ref={list} onScroll={onScroll} tabIndex={0} role="log" aria-live="off">
        {shown.length === 0 && <p class="hint">{filtered ? "Nothing fits." : feed.isPast ? "Nothing was logged up to this moment." : "Nothing was logged yet."}</p>}
        {shown.map((line, index) => (
          <Entry key={`${line.time} ${all.length - shown.length + index} ${line.node}`} line={line} onNode={props.onNode} />
        ))}
      </div>
    </section>
  );
}

/** Return how many lines neither a search nor the page has looked at. */
function unseenLines(feed: Feed, old: Old | null): number {
  const left = feed.skipped - (old?.skipped ?? 0);
  if (!old || feed.isPast) return left;
  // Those that the page has had, and does not keep.
  return left + Math.max(0, feed.arrived - old.arrived - feed.lines.length);
}

const found = ({ total, complete }: Old) => `${complete === false ? "more than " : ""}${whole(total)} found`;
const notLookedAt = (count: number) => `${whole(count)} line${count > 1 ? "s" : ""} not looked at`;

function fits(line: Line, filter: Filter): boolean {
  return (
    (!filter.node || (line.node ?? "dora") === filter.node) &&
    LEVELS.indexOf(line.level) <= LEVELS.indexOf(filter.level as Line["level"]) &&
    (!filter.text || line.message.toLowerCase().includes(filter.text.toLowerCase()))
  );
}

const Entry = memo(function Entry({ line, onNode }: { line: Line; onNode: (node: string) => void }) {
  const node = line.node ?? "dora";
  return (
    <div class={`entry ${line.level}`}>
      <time>{clock(line.time)}</time>
      <button class="node" onClick={() => onNode(node)} tabIndex={-1}>{node}</button>
      <span class="level">{line.level === "stdout" ? "" : line.level}</span>
      <span class="message">{line.message}</span>
    </div>
  );
});
