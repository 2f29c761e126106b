// The page of `dora view`: a recording at any moment, or several side by side.

import { useEffect, useMemo, useState } from "preact/hooks";
import { DataPane } from "./data_pane";
import { Chip, ThemeButton, useFeed } from "./hooks";
import { useLayout } from "./layouts";
import { LogPane } from "./logs";
import { size, whole } from "./model";
import { type Chosen, Panes, useChosen } from "./panes";
import { clockOf, type Difference, type Mark, Past, Playhead, Reader, type RecordingAbout } from "./past";
import { Timeline } from "./timeline";
import { ToastPlace } from "./toasts";

const VIEW = "view"; // what the server calls the recordings

/** A recording that is shown, and what happened in it. */
export interface Opened {
  pasts: Past[];
  playhead: Playhead;
}

export function Viewed() {
  const [opened, setOpened] = useState<Opened | null>(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const reader = new Reader(VIEW);
    reader.about().then(
      (recordings) => setOpened(openAll(reader, recordings)),
      (error: Error) => setProblem(error.message),
    );
  }, []);
  if (!opened) return <p class="hint">{problem || "Opening the recording …"}</p>;
  return <Recordings {...opened} />;
}

/** Follow recordings from their beginnings on. */
export function openAll(reader: Reader, recordings: RecordingAbout[]): Opened {
  const playhead = new Playhead(Math.max(1, ...recordings.map(({ length }) => length)));
  const pasts = recordings.map((about, number) => new Past(reader, number, about, playhead));
  playhead.at = Math.round(recordings[0]!.opens_at);
  playhead.isReady = () => pasts.every((past) => past.isReady);
  return { pasts, playhead };
}

/** Return the marks of all recordings by time, and what is known of their differences. */
export function useMarks(pasts: Past[]): { marks: Mark[]; differences: Difference[] | null; trouble: string } {
  const [marks, setMarks] = useState<Mark[]>([]);
  const [differences, setDifferences] = useState<Difference[] | null>(null);
  const [trouble, setTrouble] = useState("");
  const [first] = pasts;
  useEffect(() => {
    if (!first) return;
    let wanted = true;
    for (const past of pasts) void past.reader.marks(past.number, (found) => wanted && setMarks((before) => [...before, ...found])).catch(() => {});
    const stop = () => {
      wanted = false;
    };
    if (pasts.length < 2) return stop;
    first.reader.differences().then((found) => {
      setDifferences(found);
      for (const past of pasts.slice(0, 2)) past.compareTo(found);
    }, (error: Error) => setTrouble(`The recordings are not compared: ${error.message}.`));
    return stop;
  }, [first]);
  const differing = useMemo(
    () => (differences ?? []).flatMap(({ topic, places }) => places.map(([at, message, what]): Mark => ({ at, kind: "differs", node: topic, text: `message ${whole(message)}: ${what}` }))),
    [differences],
  );
  const all = useMemo(() => [...marks, ...differing].sort((a, b) => a.at - b.at), [marks, differing]);
  return { marks: all, differences, trouble };
}

/** Return the outputs through whose messages a user steps: of what is selected, or else those on the screen. */
export function stepTopicsOf(past: Past, { selected }: Chosen): string[] {
  const all = past.about.outputs.map(({ name }) => name);
  const own = selected?.kind === "box" ? all.filter((name) => name.startsWith(`${selected.id}/`)) : selected ? all.filter((name) => name === `${selected.edge.source}/${selected.edge.output}`) : [];
  return own.length ? own : past.shownTopics;
}

function Recordings({ pasts, playhead }: Opened) {
  const { marks, differences, trouble } = useMarks(pasts);
  const chosen = useChosen();
  const [first] = pasts as [Past];
  useFeed(first, "connection");
  const names = pasts.map(({ about }) => about.path.split("/").pop()!);
  useEffect(() => {
    document.title = `${names.join(" and ")} · dora`;
  }, []);
  const { about } = first;
  const failed = [...new Set(pasts.flatMap((past) => past.about.failed))];
  const differing = differences?.filter(({ different }) => different > 0) ?? [];
  return (
    <>
      <header>
        <h1 title={pasts.map((past) => past.about.path).join("\n")}>{names.join(" | ")}</h1>
        <Chip tone={failed.length ? "bad" : "rest"}>{failed.length ? `recording · ${failed.join(", ")} failed` : "recording"}</Chip>
        {differences && <span class="reason-place"><Chip tone={differing.length ? "warn" : "fine"}>{differing.length ? `${differing.length} of ${differences.length} outputs differ` : "both are equal"}</Chip></span>}
        <p class="facts-of-run quiet">
          <span class="folder" title={about.path}>{`\u200e${about.path.split("/").slice(0, -1).join("/")}\u200e`}</span>
          {about.host && <span>{about.host}</span>}
          <span>{new Date(about.first).toLocaleString()}</span>
          <span>{size(about.size)}</span>
        </p>
        <ToastPlace />
        <nav><ThemeButton /></nav>
      </header>
      {pasts.map((past) => past.about.trouble && <p class="banner warning" role="status" key={past.number}>{pasts.length > 1 ? `${names[past.number]}: ` : ""}{past.about.trouble}</p>)}
      {trouble && <p class="banner warning" role="status">{trouble}</p>}
      {pasts.map((past) => past.trouble && <p class="banner" role="alert" key={past.number}>{past.trouble}</p>)}
      {pasts.length === 1 ? (
        <Panes
          feed={first}
          graph={about.graph}
          chosen={chosen}
          uuid=""
          name={about.file ?? about.name}
          file={about.file}
          source={null}
          nodes={about.nodes}
          several={false}
          running={false}
          lost={false}
          latency
          onLatency={() => {}}
          overall={<Facts past={first} />}
        />
      ) : (
        <SideBySide pasts={pasts} names={names} />
      )}
      <Timeline playhead={playhead} pasts={pasts} marks={marks} stepTopics={() => stepTopicsOf(first, chosen)} />
    </>
  );
}

/** Recordings beside each other, with one arrangement of their previews. */
function SideBySide({ pasts, names }: { pasts: Past[]; names: string[] }) {
  const layout = useLayout(pasts[0]!.about.file ?? pasts[0]!.about.name);
  const [node, setNode] = useState("");
  const [shown, setShown] = useState(0); // on a phone
  useEffect(() => document.body.classList.add("ready"), []);
  return (
    <main class="beside">
      <div class="tabs" role="tablist" aria-label="Recordings">
        {names.map((name, index) => <button key={index} role="tab" class="tab" aria-selected={shown === index} onClick={() => setShown(index)}>{name}</button>)}
      </div>
      <div class="recordings">
        {pasts.map((past, index) => (
          <section key={index} class="recording" data-shown={shown === index} aria-label={names[index]}>
            <h2>{names[index]} <span class="quiet">{clockOf(past.about.length, 1)}</span></h2>
            <DataPane feed={past} graph={past.about.graph} layout={layout} selected={null} ended />
            <LogPane feed={past} nodes={past.about.nodes} node={node} onNode={setNode} />
          </section>
        ))}
      </div>
    </main>
  );
}

/** What is in a recording. */
function Facts({ past }: { past: Past }) {
  const { about } = past;
  const messages = about.outputs.reduce((sum, output) => sum + output.messages, 0);
  const rows: [string, string][] = [
    ["Length", clockOf(about.length, 1)],
    ["Messages", whole(messages)],
    ["Outputs", whole(about.outputs.length)],
    ["Size", size(about.size)],
  ];
  return (
    <>
      <h2>{about.name}</h2>
      <dl class="figures">{rows.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
      {about.own && !about.has_state && <p class="quiet">Rates follow from the messages; losses and loads were not recorded.</p>}
      <table class="topics">
        <thead><tr><th scope="col">Output</th><th scope="col">Type</th><th scope="col">Messages</th></tr></thead>
        <tbody>
          {about.outputs.map(({ name, type, messages: count }) => <tr key={name}><th scope="row" title={name}>{name}</th><td class="quiet" title={type}>{type}</td><td>{whole(count)}</td></tr>)}
        </tbody>
      </table>
    </>
  );
}
