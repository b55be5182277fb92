//! A real browser that is asked and told: the DevTools protocol over pipes, one answer for each question.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// What a page may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// One page in a browser of its own.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    asked: u64,
}

impl Browser {
    /// Opens an address; `dir` is for what the browser keeps.
    ///
    /// # Panics
    /// It is not installed, or does not start.
    #[must_use]
    pub fn open(url: &str, dir: &Path) -> Browser {
        // The protocol speaks on the descriptors 3 and 4.
        let line = "exec chromium-headless-shell --remote-debugging-pipe --no-sandbox --disable-gpu --window-size=1200,900 \
                    --user-data-dir=\"$1\" about:blank 3<&0 4>&1 >/dev/null 2>&1 </dev/null";
        let mut command = Command::new("bash");
        command.args(["-c", line, "browser"]).arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("bash is there");
        let to = child.stdin.take().expect("it is piped");
        let from = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut browser = Browser { child, to, from, session: None, asked: 0 };
        let target = browser.ask("Target.createTarget", &json!({ "url": url }))["targetId"].clone();
        let attached = browser.ask("Target.attachToTarget", &json!({ "targetId": target, "flatten": true }));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        browser
    }

    /// Asks, and passes over what is told without having been asked for.
    ///
    /// # Panics
    /// The browser refuses, or has ended.
    pub fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let mut question = json!({ "id": self.asked, "method": method, "params": params });
        if let Some(session) = &self.session {
            question["sessionId"] = Value::from(session.as_str());
        }
        let mut bytes = question.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).and_then(|()| self.to.flush()).unwrap_or_else(|e| panic!("{method}: {e}"));
        loop {
            let mut answer = Vec::new();
            let read = self.from.read_until(0, &mut answer).unwrap_or_else(|e| panic!("{method}: {e}"));
            assert!(read > 0, "expected an answer to {method}, found that the browser has ended; run scripts/setup");
            answer.pop();
            let answer: Value = serde_json::from_slice(&answer).expect("the browser speaks JSON");
            if answer["id"] == self.asked {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
        }
    }

    /// The value of an expression of the page's language.
    ///
    /// # Panics
    /// It throws.
    pub fn value(&mut self, expression: &str) -> Value {
        let answer = self.ask("Runtime.evaluate", &json!({ "expression": expression, "returnByValue": true }));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// It does not become so.
    pub fn wait_until(&mut self, expression: &str) {
        let start = Instant::now();
        while self.value(&format!("Boolean({expression})")) != true {
            assert!(
                start.elapsed() < PATIENCE,
                "expected {expression}, found {}",
                self.value("document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Presses a key: its name, and what it types, if anything.
    pub fn press(&mut self, key: &str, code: u32, text: &str) {
        let mut event = json!({ "type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code });
        if !text.is_empty() {
            event["text"] = Value::from(text);
        }
        self.ask("Input.dispatchKeyEvent", &event);
        let up = json!({ "type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code });
        self.ask("Input.dispatchKeyEvent", &up);
    }

    /// What a screen reader is told: role and name of everything that is not ignored.
    pub fn spoken(&mut self) -> Vec<(String, String)> {
        self.ask("Accessibility.enable", &json!({}));
        let tree = self.ask("Accessibility.getFullAXTree", &json!({}));
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().filter(|n| n["ignored"] != true).map(|n| (text(&n["role"]), text(&n["name"]))).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
