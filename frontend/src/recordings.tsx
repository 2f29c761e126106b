// Start and stop recordings, and say who records.

import { useEffect, useState } from "preact/hooks";
import { whole } from "./model";
import { ask } from "./server";
import { say } from "./toasts";

interface Recorder {
  pid: number;
  path: string;
  messages: number;
  last_seconds: number | null;
}

interface Outcome {
  path: string;
  messages: number;
  lost: number;
}

const POLL = 2000; // milliseconds

export function Recordings({ uuid }: { uuid: string }) {
  const path = `/dashboard/${uuid}/recordings`;
  const [recorders, setRecorders] = useState<Recorder[]>([]);
  const [busy, setBusy] = useState(false);

  const load = () => ask<Recorder[]>("GET", path).then(setRecorders, () => setRecorders([]));
  useEffect(() => {
    void load();
    const timer = setInterval(() => document.hidden || void load(), POLL);
    return () => clearInterval(timer);
  }, [path]);

  const act = async (request: Promise<unknown>) => {
    setBusy(true);
    try {
      const outcome = (await request) as Partial<Outcome>;
      if (outcome.lost !== undefined) {
        const missing = outcome.lost ? ` (INCOMPLETE: ${whole(outcome.lost)} are missing)` : "";
        say({ text: `${whole(outcome.messages ?? 0)} messages${missing} are in`, recording: outcome.path, bad: outcome.lost > 0 });
      }
    } catch (error) {
      say({ text: (error as Error).message, bad: true });
    }
    setBusy(false);
    await load();
  };
  return (
    <>
      {recorders.map((recorder) => (
        <button
          key={recorder.pid}
          class="button recording"
          disabled={busy}
          title={recorder.last_seconds === null ? recorder.path : `keeps the last ${recorder.last_seconds} s`}
          onClick={() => act(ask("DELETE", `${path}/${recorder.pid}`))}
        >
          Stop recording ({whole(recorder.messages)})
        </button>
      ))}
      {recorders.length === 0 && (
        <button class="button" disabled={busy} onClick={() => act(ask("POST", path, {}))}>
          Record
        </button>
      )}
    </>
  );
}
