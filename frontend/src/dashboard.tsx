// The dashboard: which dataflow is shown, and its panes.

import { render } from "preact";
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { DataPane } from "./data_pane";
import { DetailsPane } from "./details";
import type { Graph } from "./graph";
import { GraphPane } from "./graph_pane";
import { HomePane, TONES } from "./home";
import { Chip, ConfirmButton, IconButton, Splitter, useClock, useLive, useNarrow, useStored } from "./hooks";
import { logIn, LoginPane } from "./login";
import { LogPane } from "./logs";
import { duration, failedNodes, folderOf, linkName, type Listed, lostOn, titleOf, whole } from "./model";
import { MinutePane } from "./minute";
import { NodesPane } from "./nodes";
import { Recordings } from "./recordings";
import { about, type About, ask, dataflows, keep, Live, Refused, serverTime } from "./server";
import { SourcePane } from "./source";
import { say, ToastPlace } from "./toasts";
import type { Selected } from "./view";

const POLL = 2000; // milliseconds between looks at the list
const ANOTHER_START = "This page belongs to an earlier start of dora. Open the address that the new one has printed.";

// What lets this browser in stays neither in the address nor in the history.
const [, kind, secret] = /^#(page|token)=(.+)$/.exec(location.hash) ?? [];
if (kind) history.replaceState(null, "", location.pathname);
if (kind === "page") keep(secret!);

function App() {
  const [list, setList] = useState<Listed[] | null>(null);
  const [problem, setProblem] = useState("");
  const [locked, setLocked] = useState<string | null>(null); // what the login page says
  const [chosen, setChosen] = useState(location.hash.slice(1));
  const [only, setOnly] = useState(false); // the server shows one run, and nothing else
  const listedOnce = useRef(false);
  const gone = useRef(false); // the server, after the end of this run

  const refresh = useCallback(async () => {
    try {
      setList(await dataflows());
      listedOnce.current = true;
      setProblem("");
      setLocked(null);
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        // Another start of dora has this address now; what the page has shown stays.
        if (listedOnce.current) setProblem(ANOTHER_START);
        else setLocked((now) => now ?? "");
      }
      else setProblem(error instanceof Refused ? error.message : "No connection to dora.");
    }
  }, []);

  useEffect(() => {
    const begin = async () => {
      if (kind === "token") await logIn(decodeURIComponent(secret!)).catch((error: Error) => setLocked(error.message));
      await refresh();
      const status = await ask<{ kind?: string }>("GET", "/api/status").catch(() => ({ kind: "" }));
      setOnly(status.kind === "run");
    };
    void begin();
    const timer = setInterval(() => document.hidden || gone.current || void refresh(), POLL);
    const follow = () => setChosen(location.hash.slice(1));
    addEventListener("hashchange", follow);
    return () => {
      clearInterval(timer);
      removeEventListener("hashchange", follow);
    };
  }, []);

  const open = (uuid: string) => {
    location.hash = uuid;
    setChosen(uuid);
  };
  if (locked !== null) return <LoginPane told={locked} onDone={refresh} />;
  const uuid = only ? (list?.[0]?.uuid ?? "") : chosen;
  const listed = list?.find((item) => item.uuid === uuid) ?? null;
  if (uuid) return <Dataflow key={uuid} uuid={uuid} listed={listed} problem={problem} onHome={only ? null : () => open("")} onOpen={open} onGone={() => (gone.current = true)} />;
  return (
    <>
      <header>
        <h1>dora</h1>
        <p class="said quiet">{problem || "dataflows of this coordinator"}</p>
        <nav><ThemeButton /></nav>
      </header>
      <HomePane dataflows={list} onOpen={open} />
    </>
  );
}

type Tab = "data" | "graph" | "minute" | "details" | "nodes" | "source" | "logs";
const TABS: [Tab, string][] = [
  ["data", "Data"],
  ["graph", "Graph"],
  ["minute", "Rates"],
  ["details", "Details"],
  ["nodes", "Nodes"],
  ["source", "YAML"],
  ["logs", "Logs"],
];
const SPLITS = { graph: 0, left: 30, data: 53 }; // percent of the panes before the borders; 0: as the graph needs
const LEAST = 24; // percent that the graph takes by itself
const MOST = 42;

function Dataflow(props: {
  uuid: string;
  listed: Listed | null;
  problem: string;
  onHome: (() => void) | null;
  onOpen: (uuid: string) => void;
  onGone: () => void;
}) {
  const { uuid, listed } = props;
  const [told, setTold] = useState<About | null>(null);
  const [problem, setProblem] = useState("");
  const [tab, setTab] = useState<Tab>("data"); // on a phone; where there is room, only for the pane below the graph
  const [selected, setSelected] = useState<Selected>(null);
  const [node, setNode] = useState(""); // of the log
  const [splits, setSplits] = useStored("borders", SPLITS);
  const [latency, setLatency] = useStored("latency", false, sessionStorage); // a page that is loaded again goes on
  const narrow = useNarrow();
  const [need, setNeed] = useState(LEAST); // percent that would show the graph
  const [large, setLarge] = useState(false); // the graph has the room of all panes
  const live = useMemo(() => new Live(uuid), [uuid]);
  const recorded = listed !== null && (listed.status === "Finished" || listed.status === "Failed");
  const ended = recorded || live.outcome !== null;
  const title = listed ? titleOf(listed) : "dora";
  useEffect(() => () => live.close(), [live]);
  useLive(live, "connection");
  useLive(live, "graph");
  useLive(live, "state");
  useEffect(() => live.measureLatency(latency), [live, latency]);
  useEffect(() => {
    about(uuid).then(setTold, (error: Error) => setProblem(error.message));
  }, [uuid, listed?.status]);
  useEffect(() => {
    // The list does not contain how each dataflow ended.
    if (recorded) ask<Listed>("GET", `/api/dataflows/${uuid}`).then((record) => live.finish(record), () => {});
  }, [live, recorded]);
  useEffect(() => {
    if (live.gone) props.onGone();
  }, [live.gone]);
  useEffect(() => {
    document.title = `${title} · dora`;
  }, [title]);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => event.key === "Escape" && setSelected(null);
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);

  const newest: Graph | null = live.graph ?? told?.graph ?? null;
  const graph = useMemo(() => newest, [JSON.stringify(newest)]); // laid out again only if it has changed
  const running = !ended && live.connection === "open";
  const select = useCallback((chosen: Selected) => {
    setSelected(chosen);
    // On a phone a tap on a node leads to what it sends.
    if (chosen && narrow) setTab("data");
  }, [narrow]);
  const showLog = (of: string) => {
    setNode(of);
    setTab("logs");
  };
  const order = async (action: "stop" | "restart") => {
    try {
      const answer = await ask<{ new?: Listed }>("POST", `/api/dataflows/${uuid}/${action}`, {});
      if (answer.new) props.onOpen(answer.new.uuid);
    } catch (error) {
      say({ text: (error as Error).message, bad: true });
    }
  };
  const status = ended ? (live.outcome ?? listed!).status : live.connection === "ended" ? "Finished" : (listed?.status ?? "Starting");
  const lost = live.connection === "lost" && !ended;
  const failed = ended ? [] : failedNodes(live.state); // at the end, it is said below the header
  const crowded = ended || lost ? [] : (live.state?.networks ?? []).flatMap((network) => network.warnings);
  const nodeOfSelection = selected?.kind === "box" ? selected.id.split("/")[0]! : selected?.kind === "edge" ? selected.edge.target.split("/")[0]! : null;
  const said = problem || (ended ? "" : lost && props.problem !== ANOTHER_START ? "No connection to the dataflow: it has ended, or dora was stopped. Trying again …" : props.problem);
  const side = tab === "nodes" || tab === "source" ? tab : "details";
  const graphHeight = splits.graph || Math.max(LEAST, Math.min(MOST, Math.ceil(need)));
  const split = (name: keyof typeof SPLITS) => (size: number) => setSplits({ ...splits, [name]: size });

  return (
    <>
      <header>
        {props.onHome && <IconButton path="M10 3 5 8l5 5" label="All dataflows" onClick={props.onHome} />}
        <h1 title={told?.file ?? ""}>{title}</h1>
        <Chip tone={lost || failed.length ? "bad" : TONES[status]}>{lost ? "no connection" : failed.length ? `${status} · ${failed.length} failed` : status}</Chip>
        {failed[0] && (
          <button class="reason" title={`${failed[0].id} ${failed[0].failure!.reason}`} onClick={() => showLog(failed[0]!.id)}>
            {failed[0].id} {failed[0].failure!.reason}
          </button>
        )}
        {listed && <Facts listed={listed} machines={told?.machines ?? []} />}
        <ToastPlace />
        <nav>
          {running && <IconButton path="M8 4.500V8l2.500 1.500M8 1.500a6.500 6.500 0 1 0 .01 0z" label="Measure latencies" pressed={latency} onClick={() => setLatency(!latency)} />}
          <ThemeButton />
          {running && <Recordings uuid={uuid} />}
          {!ended && <ConfirmButton label="Stop" sure="Really stop?" onConfirm={() => order("stop")} disabled={!running} />}
          {props.onHome && <ConfirmButton label="Restart" sure="Really restart?" onConfirm={() => order("restart")} />}
        </nav>
      </header>
      {said && <p class="banner" role="alert">{said}</p>}
      {crowded.map((warning) => <p class="banner warning" role="status" key={warning}>{warning}</p>)}
      {told?.running && !told.here && !live.state && <p class="banner">It is being built: there is nothing to be seen yet.</p>}
      {live.outcome && <Ending record={live.outcome} graph={graph} onLogs={showLog} />}
      <main
        class="dataflow"
        data-tab={tab}
        data-stale={lost}
        data-large={large}
        style={{ "--left": `${splits.left}%`, "--graph": `${graphHeight}%`, "--data": `${splits.data}%` }}
      >
        {graph ? <GraphPane live={live} graph={graph} several={(told?.machines.length ?? 1) > 1} selected={selected} onSelect={select} large={large} onLarge={setLarge} highest={splits.graph ? 0 : MOST} onNeed={setNeed} /> : <section class="canvas pane" id="graph"><p class="hint">Waiting for the dataflow …</p></section>}
        <Splitter label="Height of the graph" axis="y" size={graphHeight} onSize={split("graph")} />
        <div class="lower">
          <div class="column left">
            <div class="tabs" role="tablist" aria-label="Panes">
              {TABS.map(([name, label]) => (
                <button key={name} role="tab" class="tab" data-name={name} aria-selected={(narrow ? tab : side) === name} onClick={() => setTab(name)}>{label}</button>
              ))}
            </div>
            {graph && side === "details" && (
              <DetailsPane uuid={uuid} live={live} graph={graph} selected={selected} running={running} onSelect={setSelected} onLogs={showLog} />
            )}
            {graph && side === "nodes" && <NodesPane live={live} graph={graph} onSelect={(chosen) => { setSelected(chosen); setTab("details"); }} />}
            {side === "source" && <SourcePane file={told?.file ?? null} source={told?.source ?? null} node={nodeOfSelection} />}
          </div>
          <Splitter label="Width of the details" axis="x" size={splits.left} onSize={split("left")} />
          <div class="column right">
            {graph && told ? <DataPane live={live} graph={graph} name={told.file ?? told.name} selected={selected} ended={!running && live.connection !== "opening"} /> : <section class="pane data" />}
            <Splitter label="Height of the data" axis="y" size={splits.data} onSize={split("data")} />
            {graph ? <MinutePane live={live} graph={graph} selected={selected} latency={latency} onLatency={setLatency} /> : <section class="pane minute" />}
            <LogPane live={live} nodes={listed?.nodes ?? []} node={node} onNode={setNode} />
          </div>
        </div>
      </main>
    </>
  );
}

/** Where the dataflow is: its folder, its machines, and for how long it has run. */
function Facts({ listed, machines }: { listed: Listed; machines: string[] }) {
  useClock();
  const over = listed.ended !== null;
  const time = duration(Math.max(0, (listed.ended ?? serverTime()) - listed.created));
  return (
    <p class="facts-of-run quiet">
      <span class="folder" title={folderOf(listed)}>{`\u200e${folderOf(listed)}\u200e`}</span>
      {machines.length > 0 && <span>{machines.join(", ")}</span>}
      <span>{over ? `ran ${time}` : `up ${time}`}</span>
    </p>
  );
}

/** How the dataflow ended: after which time, what failed, and what was lost although the inputs did not ask for it. */
function Ending({ record, graph, onLogs }: { record: Listed; graph: Graph | null; onLogs: (node: string) => void }) {
  const { result } = record;
  const failures = result?.failures ?? [];
  const boxes = new Map(graph?.boxes.map((box) => [box.id, box]));
  const asking = new Set(graph?.edges.filter((edge) => edge.asks_for_drops).map((edge) => linkName(edge, boxes)?.replace(" ", " -> ")));
  const losses = (result?.links ?? []).map((report) => ({ ...report, lost: lostOn(report, asking.has(report.link), result!) })).filter(({ lost }) => lost > 0);
  const asked = (result?.links ?? []).reduce((sum, { link, dropped }) => sum + (asking.has(link) ? dropped : 0), 0);
  losses.sort((a, b) => b.lost - a.lost);
  const total = losses.reduce((sum, { lost }) => sum + lost, 0);
  const named = (link: string) => link.replace(" -> ", " → ");
  const worst = losses.slice(0, 2).map(({ link, lost }) => (losses.length > 1 ? `${named(link)} (${whole(lost)})` : named(link)));
  const lost = total ? `${whole(total)} message${total > 1 ? "s" : ""} lost on ${worst.join(", ")}${losses.length > 2 ? ` and ${losses.length - 2} more links` : ""}` : "no message lost";
  return (
    <section class={failures.length ? "outcome failed" : "outcome"} aria-label="End">
      <p>
        {result?.stopped ? "Stopped" : "Ended"} after {duration((record.ended ?? record.created) - record.created)}
        {result && <>, <span class={total ? "bad" : ""}>{lost}</span></>}
        {asked > 0 && <span class="quiet">; {whole(asked)} dropped, as the inputs ask</span>}
        {failures.length === 0 && record.reason && <span class={record.status === "Failed" ? "bad" : ""}>: {record.reason}</span>}
      </p>
      {failures.map((failure, index) => (
        <p class="bad" key={failure.node_id}>
          <button class="link" onClick={() => onLogs(failure.node_id)}>{failure.node_id}</button> {failure.message}
          {failure.last_lines.length > 0 && <code class="quiet"> {failure.last_lines[failure.last_lines.length - 1]}</code>}
          {index === 0 && failures.length > 1 && <span class="quiet"> — the first cause</span>}
        </p>
      ))}
    </section>
  );
}

type Theme = "" | "light" | "dark";

function ThemeButton() {
  const [theme, setTheme] = useState<Theme>((localStorage.getItem("theme") as Theme) ?? "");
  useEffect(() => {
    document.documentElement.style.colorScheme = theme || "light dark";
    localStorage.setItem("theme", theme);
  }, [theme]);
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const sun = "M8 5a3 3 0 1 0 .01 0zM8 1v1.500M8 13.500V15M1 8h1.500M13.500 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1";
  const moon = "M13 9.500A5.500 5.500 0 0 1 6.500 3a5.500 5.500 0 1 0 6.500 6.500z";
  return <IconButton path={dark ? sun : moon} label={dark ? "Light" : "Dark"} onClick={() => setTheme(dark ? "light" : "dark")} />;
}

render(<App />, document.getElementById("app")!);
