// The dashboard: which dataflow is shown, and its panes.

import { render } from "preact";
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Graph } from "./graph";
import { HomePane, TONES } from "./home";
import { Chip, ConfirmButton, IconButton, ThemeButton, useClock, useFeed, useStored } from "./hooks";
import { logIn, LoginPane } from "./login";
import { duration, failedNodes, folderOf, linkName, type Listed, lostOn, titleOf, whole } from "./model";
import { AxisOfRun, AxisOfPast } from "./look_back";
import { Panes, useChosen } from "./panes";
import { Recordings } from "./recordings";
import { about, type About, ask, dataflows, keep, Live, Refused, serverTime } from "./server";
import { say, ToastPlace } from "./toasts";
import { type Opened, Viewed } from "./viewed";

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
  const [server, setServer] = useState(""); // "run": it shows one run, and nothing else; "view": recordings
  const known = useRef<string | null>(null); // the same, once the server has said it
  const listedOnce = useRef(false);
  const gone = useRef(false); // the server, after the end of this run

  const refresh = useCallback(async () => {
    try {
      // It says so only to a browser that is let in.
      known.current ??= (await ask<{ kind?: string }>("GET", "/api/status")).kind ?? "";
      setServer(known.current);
      if (known.current !== "view") {
        setList(await dataflows());
        listedOnce.current = true;
      }
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
    };
    void begin();
    const timer = setInterval(() => document.hidden || gone.current || known.current === "view" || void refresh(), POLL);
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
  if (server === "view") return <Viewed />;
  const only = server === "run";
  const uuid = only ? (list?.[0]?.uuid ?? "") : chosen;
  const listed = list?.find((item) => item.uuid === uuid) ?? null;
  if (uuid) return <Dataflow key={uuid} uuid={uuid} listed={listed} problem={problem} onHome={only ? null : () => open("")} onOpen={open} onGone={only ? () => (gone.current = true) : null} />;
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

function Dataflow(props: {
  uuid: string;
  listed: Listed | null;
  problem: string;
  onHome: (() => void) | null;
  onOpen: (uuid: string) => void;
  onGone: (() => void) | null; // null: the server outlives its dataflows
}) {
  const { uuid, listed } = props;
  const [told, setTold] = useState<About | null>(null);
  const [problem, setProblem] = useState("");
  const chosen = useChosen();
  const [latency, setLatency] = useStored("latency", false, sessionStorage); // a page that is loaded again goes on
  const alone = props.onGone !== null;
  const live = useMemo(() => new Live(uuid, alone), [uuid, alone]);
  const recorded = listed !== null && (listed.status === "Finished" || listed.status === "Failed");
  const ended = recorded || live.outcome !== null;
  const title = listed ? titleOf(listed) : "dora";
  useEffect(() => () => live.close(), [live]);
  useFeed(live, "connection");
  useFeed(live, "graph");
  useFeed(live, "state");
  useEffect(() => live.measureLatency(latency), [live, latency]);
  useEffect(() => {
    about(uuid).then(setTold, (error: Error) => setProblem(error.message));
  }, [uuid, listed?.status]);
  useEffect(() => {
    // The list does not contain how each dataflow ended.
    if (recorded) ask<Listed>("GET", `/api/dataflows/${uuid}`).then((record) => live.finish(record), () => {});
  }, [live, recorded]);
  useEffect(() => {
    if (live.gone) props.onGone?.();
  }, [live.gone]);
  useEffect(() => {
    document.title = `${title} · dora`;
  }, [title]);
  const [opened, setOpened] = useState<Opened | null>(null); // a look back
  const present = useCallback(() => {
    opened?.pasts.forEach((past) => past.close());
    setOpened(null);
  }, [opened]);
  const past = opened?.pasts[0] ?? null;
  const newest: Graph | null = live.graph ?? told?.graph ?? null;
  const graph = useMemo(() => newest, [JSON.stringify(newest)]); // laid out again only if it has changed
  const running = !ended && live.connection === "open";
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
  const said = problem || (ended ? "" : lost && props.problem !== ANOTHER_START ? "No connection to the dataflow: it has ended, or dora was stopped. Trying again …" : props.problem);

  return (
    <>
      <header>
        {props.onHome && <IconButton path="M10 3 5 8l5 5" label="All dataflows" onClick={props.onHome} />}
        <h1 title={told?.file ?? ""}>{title}</h1>
        <Chip tone={lost || failed.length ? "bad" : TONES[status]}>{lost ? "no connection" : failed.length ? `${status} · ${failed.length} failed` : status}</Chip>
        {failed[0] && (
          <button class="reason" title={`${failed[0].id} ${failed[0].failure!.reason}`} onClick={() => chosen.showLog(failed[0]!.id)}>
            {failed[0].id} {failed[0].failure!.reason}
          </button>
        )}
        {listed && <Facts listed={live.outcome ?? listed} machines={told?.machines ?? []} />}
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
      {live.outcome && <Ending record={live.outcome} graph={graph} onLogs={chosen.showLog} />}
      {past?.trouble && <p class="banner" role="alert">{past.trouble}</p>}
      <Panes
        feed={past ?? live}
        graph={past?.about.graph ?? graph}
        chosen={chosen}
        uuid={uuid}
        name={told ? (told.file ?? told.name) : null}
        file={told?.file ?? null}
        source={told?.source ?? null}
        nodes={listed?.nodes ?? []}
        several={(told?.machines.length ?? 1) > 1}
        running={running && !past}
        lost={lost && !past}
        latency={latency || past !== null}
        onLatency={setLatency}
      />
      {opened && <AxisOfPast {...opened} chosen={chosen} onLive={present} />}
      {!opened && running && told?.looks_back && <AxisOfRun uuid={uuid} live={live} onLookBack={setOpened} />}
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

render(<App />, document.getElementById("app")!);
