//! The steps of the tour, in its order.

use std::io::Write;
use std::ops::Range;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use super::keys::Keys;
use super::{ALL, LIST, Tour, is_ok};
use crate::demo::DemoError;
use crate::demo::client::{Ask, Seen};
use crate::demo::page::time;
use crate::demo::sample::unit_id;

impl<W: Write> Tour<'_, W> {
    pub(super) async fn miss(&mut self) -> Result<Seen, DemoError> {
        self.page
            .step("MISS", "the first request for a unit goes upstream, and the answer is stored")?;
        let seen = self.show(self.unit(1).by("alice")).await?;
        let stored = seen.says("fwd=uri-miss") && seen.says("stored");
        self.page.check(is_ok(&seen) && stored && seen.cost() == 1, "fetched once and stored")?;
        Ok(seen)
    }

    pub(super) async fn hit(&mut self, first: &Seen) -> Result<(), DemoError> {
        self.page.step("HIT", "the next one is answered from memory")?;
        let seen = self.show(self.unit(1).by("alice")).await?;
        self.page.fields(&seen, &["Age", "Cache-Control", "RateLimit"])?;
        let same = seen.body == first.body;
        let hit = is_ok(&seen) && seen.says("hit") && seen.cost() == 0;
        Ok(self.page.check(hit && same, "the same bytes from memory")?)
    }

    pub(super) async fn coalesced(&mut self) -> Result<(), DemoError> {
        self.page.step(
            "COALESCED",
            "many at once for a unit that nobody has asked for cost one request",
        )?;
        let (ask, crowd) = (self.unit(2).by("alice"), self.crowd);
        self.page.command(&ask.curls(crowd, "-D -", "| grep -i cache-status "))?;
        let (all, cost, took) = self.burst(&ask, crowd).await?;
        let count = |word| all.iter().filter(|seen| seen.says(word)).count();
        let (ok, fetched) = (all.iter().filter(|seen| is_ok(seen)).count(), count("fwd=uri-miss"));
        let (joined, hits) = (count("collapsed"), count("hit"));
        let leaders = fetched.saturating_sub(joined);
        let (took, cost_told) = (time(took), range(&cost));
        self.page.note(&format!(
            "{ok} × 200 in {took}, {cost_told}: {leaders} × first, {joined} × collapsed, {hits} × hit"
        ))?;
        let once = cost.end - cost.start == 1 && joined + hits + 1 == crowd;
        Ok(self.page.check(ok == crowd && once, "one request upstream for all")?)
    }

    pub(super) async fn masked(&mut self) -> Result<(), DemoError> {
        self.page.step(
            "MASKED",
            "keys that the sample sends in the clear (asked directly first, to compare)",
        )?;
        self.direct += 1;
        let url = format!("http://{}{LIST}{}", self.addresses.sample, unit_id(2));
        let raw = self.client.send(Ask::get(url).by("alice")).await?;
        let seen = self.show(self.unit(3).by("alice")).await?;
        let (sent, got) = (Keys::of(&raw), Keys::of(&seen));
        self.page.note(&format!("     sent      {}", sent.described()))?;
        let Keys { api_key, is_token_masked, prompt } = &got;
        self.page
            .note(&format!("     received  apiKey {api_key:?}; isTokenMasked {is_token_masked}"))?;
        self.page.note(&format!("               prompt {prompt:?}"))?;
        self.page.check(sent.are_bare(), "the sample sent bare keys")?;
        let text = String::from_utf8_lossy(&seen.body);
        let clean = !text.contains(&sent.api_key) && !text.contains(sent.pasted());
        self.page.check(clean && got.is_token_masked, "both keys are masked")?;
        let edited = String::from_utf8_lossy(&raw.body)
            .replace(&sent.api_key, MASK)
            .replace(sent.pasted(), MASK)
            .replace("\"isTokenMasked\":false", "\"isTokenMasked\":true");
        Ok(self.page.check(edited == text, "every other byte is the sample's")?)
    }

    pub(super) async fn not_modified(&mut self, first: &Seen) -> Result<(), DemoError> {
        self.page.step("304", "whoever has the answer already is told so, from memory")?;
        let etag = first.field("ETag").unwrap_or_default().to_owned();
        let seen = self.show(self.unit(1).by("alice").unless(&etag)).await?;
        let unchanged = seen.status == StatusCode::NOT_MODIFIED && seen.body.is_empty();
        Ok(self.page.check(unchanged && seen.cost() == 0, "a 304 without content")?)
    }

    pub(super) async fn partitioned(&mut self) -> Result<(), DemoError> {
        self.page.step(
            "PARTITION",
            "another token never sees what was fetched with the first: a miss again",
        )?;
        let seen = self.show(self.unit(1).by("bob")).await?;
        let missed = seen.says("fwd=uri-miss") && seen.cost() == 1;
        Ok(self.page.check(is_ok(&seen) && missed, "a miss of his own")?)
    }

    pub(super) async fn write(&mut self, first: &Seen) -> Result<(), DemoError> {
        self.page.step("WRITE", "a new integration drops the unit's list, for every caller")?;
        let url = format!("http://{}{ALL}", self.addresses.gateway);
        let written = self.show(Ask::post(url, Some(NEW)).by("alice")).await?;
        let sent = written.status == StatusCode::CREATED && written.says("fwd=method");
        self.page.check(sent && written.cost() == 1, "the write went upstream")?;
        for token in ["alice", "bob"] {
            let seen = self.show(self.unit(1).by(token)).await?;
            let many = integrations(&seen);
            if token == "bob" {
                self.page.note(&format!("     {many} integrations now"))?;
            }
            let anew = !seen.says("hit") && seen.cost() == 1 && many == integrations(first) + 1;
            self.page.check(is_ok(&seen) && anew, "fetched anew, with the new integration")?;
        }
        Ok(())
    }

    pub(super) async fn limited(&mut self) -> Result<(), DemoError> {
        self.page.step("LIMITED", "too many at once: 429, and nothing goes upstream for those")?;
        let ask = self.at(&format!("{ALL}/{}-1", unit_id(3))).by("carol");
        self.page.command(&ask.curls(BURST, "-w '%{http_code}\\n'", ""))?;
        let (all, cost, _) = self.burst(&ask, BURST).await?;
        let with = |status| all.iter().filter(move |seen| seen.status == status);
        let passed = with(StatusCode::OK).count();
        let refused = with(StatusCode::TOO_MANY_REQUESTS).count();
        self.page.note(&format!("{passed} × 200, {refused} × 429, {}", range(&cost)))?;
        if let Some(seen) = with(StatusCode::TOO_MANY_REQUESTS).last() {
            self.page.fields(seen, &["Retry-After", "RateLimit-Policy", "RateLimit"])?;
            self.page.check(seen.field("Retry-After").is_some(), "it says when to come back")?;
        }
        let spared = u64::try_from(passed) == Ok(cost.end - cost.start);
        let all_told = passed > 0 && refused > 0 && passed + refused == BURST;
        Ok(self.page.check(all_told && spared, "some let through, the others refused here")?)
    }

    pub(super) async fn revoked(&mut self) -> Result<(), DemoError> {
        self.page.step(
            "REVOKED",
            "a hit as long as the gateway isn't told; then the 401 ends all of that token",
        )?;
        self.turn("revoke/bob").await?;
        let still = self.show(self.unit(1).by("bob")).await?;
        let hit = is_ok(&still) && still.says("hit") && still.cost() == 0;
        self.page.check(hit, "a hit as long as the gateway isn't told")?;
        for (unit, claim) in [(4, "told by a miss"), (1, "gone from memory")] {
            let seen = self.show(self.unit(unit).by("bob")).await?;
            let refused = seen.status == StatusCode::UNAUTHORIZED && seen.cost() == 1;
            self.page.check(refused, claim)?;
        }
        // So that the lines above work again for whoever pastes them.
        self.turn("accept/bob").await
    }

    pub(super) async fn stale(&mut self) -> Result<(), DemoError> {
        let last = self.sample.units();
        self.page
            .step("STALE", "an upstream that fails is covered for: this unit's life is 2 s only")?;
        let kept = self.show(self.unit(last).by("alice")).await?;
        self.page.check(is_ok(&kept) && kept.says("stored"), "stored")?;
        self.turn("outage/on").await?;
        self.page.command(&[format!("sleep {}", PAST_SHORT_LIFE.as_secs_f64())])?;
        self.page.flush()?;
        tokio::time::sleep(PAST_SHORT_LIFE).await;
        let seen = self.show(self.unit(last).by("alice")).await?;
        self.page.fields(&seen, &["Age"])?;
        let covered = is_ok(&seen) && seen.says("fwd=stale") && seen.body == kept.body;
        self.page.check(covered && seen.cost() == 1, "the old answer in place of an error")?;
        self.turn("outage/off").await
    }

    pub(super) async fn metrics(&mut self) -> Result<(), DemoError> {
        self.page.step("METRICS", "the same, as operators see it")?;
        let ask = Ask::get(format!("http://{}/metrics", self.addresses.admin));
        self.page.command(&["curl -s".to_owned(), ask.curl().pop().unwrap_or_default()])?;
        let scrape = self.client.send(ask).await?;
        let text = String::from_utf8_lossy(&scrape.body);
        for name in SAMPLES {
            let line = text.lines().find(|line| line.starts_with(name));
            self.page.note(line.unwrap_or("(missing)"))?;
            self.page.check(line.is_some(), name)?;
        }
        let sum: f64 = text
            .lines()
            .filter(|line| line.starts_with("unitgate_upstream_requests_total{"))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum();
        let count = self.sample.requests().saturating_sub(self.direct);
        self.page.note(&format!(
            "sum of unitgate_upstream_requests_total: {sum}; counted by the sample: {count}"
        ))?;
        Ok(self.page.check(format!("{sum}") == count.to_string(), "both counts agree")?)
    }
}

/// How many a unit's list holds.
fn integrations(seen: &Seen) -> usize {
    let body = seen.json();
    body.get("data").and_then(Value::as_array).map_or(0, Vec::len)
}

fn range(count: &Range<u64>) -> String {
    format!("sample {}→{}", count.start, count.end)
}

/// A write that the sample accepts.
const NEW: &str = r#"{"unitId":"unit-001","title":"New"}"#;

/// What keys become.
const MASK: &str = "cal_****************";

/// Above the lowered limit's burst.
const BURST: usize = 30;

/// Longer than the last unit stays fresh.
const PAST_SHORT_LIFE: Duration = Duration::from_millis(2_100);

/// Series that are shown as they stand in a scrape.
const SAMPLES: [&str; 3] = [
    "unitgate_cache_coalesced_total",
    "unitgate_masked_fields_total",
    r#"unitgate_limiter_decisions_total{decision="throttled",limiter="caller"}"#,
];
