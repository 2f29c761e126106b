// Short messages about what has just been done; they fade, and have a place of their own in the header.

import { useEffect, useState } from "preact/hooks";
import { IconButton } from "./hooks";

interface Toast {
  text: string;
  bad?: boolean;
  recording?: string; // its path: to be copied, and to be replayed
}

let show: (toast: Toast | null) => void = () => {};

/** Show a message until it has faded, or until the next one. */
export function say(toast: Toast): void {
  show(toast);
}

/** The place of the messages. They fade by themselves, but not while the pointer or the focus is on one. */
export function ToastPlace() {
  const [shown, setShown] = useState<{ toast: Toast; number: number } | null>(null);
  const [copied, setCopied] = useState(""); // the label of a button
  useEffect(() => {
    let number = 0;
    show = (toast) => {
      setCopied("");
      setShown(toast && { toast, number: ++number });
    };
    return () => (show = () => {});
  }, []);
  if (!shown) return null;
  const { text, bad, recording } = shown.toast;
  // A replay runs the nodes once more, perhaps beside those that run now: that is for a person at a terminal to decide.
  const copies: [string, string, string][] = recording
    ? [
        ["Copy", "Copy the path", recording],
        ["View", "Copy the command that shows it", `dora view ${quoted(recording)}`],
        ["Replay", "Copy the command that replays it", `dora replay ${quoted(recording)}`],
      ]
    : [];
  return (
    <div key={shown.number} class={bad ? "toast bad" : "toast"} role={bad ? "alert" : "status"} onAnimationEnd={() => setShown(null)}>
      <span title={recording ? `${text} ${recording}` : text}>
        {copied === "Replay" || copied === "View" ? <code>{copies.find(([label]) => label === copied)![2]}</code> : <>{text} {recording && <b>{recording.split("/").pop()}</b>}</>}
      </span>
      {copies.map(([label, title, what]) => (
        <button key={label} class="link" title={title} onClick={() => void copy(what).then((done) => setCopied(done ? label : ""))}>
          {copied === label ? "Copied" : label}
        </button>
      ))}
      <IconButton path="M4 4l8 8M12 4l-8 8" label="Dismiss" onClick={() => setShown(null)} />
    </div>
  );
}

/** Return a path as a shell reads it. */
export function quoted(path: string): string {
  return /^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`;
}

/** Copy a text; return whether it is in the clipboard. */
export async function copy(text: string): Promise<boolean> {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(() => true, () => false);
  }
  // Browsers offer the clipboard to pages of this computer and to HTTPS; others have the old way.
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
