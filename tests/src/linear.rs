//! Whether what editors were told fits one order of edits: the history's.
//!
//! The history is the witness, so nothing has to be searched (Herlihy and Wing, 1990, call the points in it
//! linearization points): each edit must be legal where it stands, must have been under way there, and must have been
//! answered with what it made.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use endcap_proto::pb;
use tonic::Code;

/// What an editor asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Promote(u64),
    Rollback,
}

/// What it was told.
#[derive(Debug, Clone)]
pub enum Told {
    Done(pb::Rollout),
    Refused(Code),
    /// The answer was lost: done or not done.
    Unknown,
}

/// One call of one editor.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The reason that it gave, which no other call gave.
    pub token: String,
    pub ask: Ask,
    /// 0 for whatever it is.
    pub expected_revision: u64,
    pub began: Duration,
    pub ended: Duration,
    pub told: Told,
}

/// Where the aliases stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    revision: u64,
    stable: Option<u64>,
    last_good: Option<u64>,
}

impl State {
    /// The state after an edit, or nothing where it is not legal.
    fn after(&self, ask: Ask, expected_revision: u64) -> Option<Self> {
        if expected_revision != 0 && expected_revision != self.revision {
            return None;
        }
        let stable = match ask {
            Ask::Promote(version) if self.stable != Some(version) => version,
            Ask::Promote(_) => return None,
            Ask::Rollback => self.last_good?,
        };
        Some(Self {
            revision: self.revision + 1,
            stable: Some(stable),
            last_good: self.stable.or(self.last_good),
        })
    }

    fn is(&self, rollout: &pb::Rollout) -> bool {
        let alias = |name| rollout.aliases.get(name).copied();
        (self.revision, self.stable, self.last_good)
            == (rollout.revision, alias("stable"), alias("last_good"))
    }
}

/// Every way in which attempts and history contradict each other; empty when there is none.
pub fn contradictions(history: &[pb::HistoryEntry], attempts: &[Attempt]) -> Vec<String> {
    let mut found = Vec::new();
    let by_token: BTreeMap<&str, &Attempt> = attempts.iter().map(|a| (a.token.as_str(), a)).collect();
    let moves: Vec<_> =
        history.iter().filter(|e| ["promoted", "rolled_back"].contains(&e.action.as_str())).collect();
    let (mut states, mut order) = (vec![State::default()], Vec::new());
    let (mut seen, mut latest_start) = (BTreeSet::new(), Duration::ZERO);
    for entry in moves {
        let Some(attempt) = by_token.get(entry.reason.as_str()) else {
            found.push(format!("entry {} was asked for by nobody: {:?}", entry.sequence, entry.reason));
            return found;
        };
        let token = &attempt.token;
        if !seen.insert(token) {
            found.push(format!("{token} happened twice"));
        }
        let before = states.last().cloned().unwrap_or_default();
        let Some(after) = before.after(attempt.ask, attempt.expected_revision) else {
            found.push(format!("{token} ({:?}) is not legal in {before:?}", attempt.ask));
            return found;
        };
        if after.stable != Some(entry.to_version) {
            found.push(format!("{token} made {after:?}, but history says version {}", entry.to_version));
        }
        match &attempt.told {
            Told::Done(rollout) if !after.is(rollout) => {
                found.push(format!("{token} made {after:?}, but was told {rollout:?}"));
            }
            Told::Refused(code) => found.push(format!("{token} was refused ({code:?}), but happened")),
            Told::Done(_) | Told::Unknown => {}
        }
        if attempt.ended < latest_start {
            found.push(format!("{token} stands after an edit that began when it had ended"));
        }
        latest_start = latest_start.max(attempt.began);
        order.push(*attempt);
        states.push(after);
    }
    for attempt in attempts {
        let token = &attempt.token;
        match attempt.told {
            Told::Done(_) if !seen.contains(token) => found.push(format!("{token} was done, but is lost")),
            Told::Refused(code) if !may_refuse(attempt, code, &order, &states) => {
                found.push(format!("{token} ({:?}) was refused ({code:?}) for no reason", attempt.ask));
            }
            Told::Done(_) | Told::Refused(_) | Told::Unknown => {}
        }
    }
    found
}

/// Whether a refusal was right in some state that held while the call was under way.
fn may_refuse(attempt: &Attempt, code: Code, order: &[&Attempt], states: &[State]) -> bool {
    let first = order.iter().rposition(|other| other.ended < attempt.began).map_or(0, |at| at + 1);
    let last = order.iter().position(|other| other.began > attempt.ended).unwrap_or(order.len());
    states.iter().take(last + 1).skip(first).any(|state| {
        let stale = attempt.expected_revision != 0 && attempt.expected_revision != state.revision;
        match code {
            Code::Aborted => stale,
            Code::FailedPrecondition => !stale && state.after(attempt.ask, 0).is_none(),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64, token: &str, to: u64) -> pb::HistoryEntry {
        let (action, reason) = ("promoted".to_owned(), token.to_owned());
        pb::HistoryEntry { sequence, action, reason, to_version: to, ..Default::default() }
    }

    fn rollout(revision: u64, stable: u64, last_good: Option<u64>) -> Told {
        let aliases = [("stable", Some(stable)), ("last_good", last_good)];
        let aliases = aliases.into_iter().filter_map(|(name, at)| Some((name.to_owned(), at?))).collect();
        Told::Done(pb::Rollout { model: "m".into(), aliases, revision })
    }

    fn attempt(token: &str, version: u64, time: (u64, u64), told: Told) -> Attempt {
        let (began, ended) = (Duration::from_millis(time.0), Duration::from_millis(time.1));
        let ask = Ask::Promote(version);
        Attempt { token: token.into(), ask, expected_revision: 0, began, ended, told }
    }

    fn only(found: &[String], words: &str) {
        assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
    }

    #[test]
    fn what_overlaps_may_stand_in_either_order() {
        let a = attempt("a", 1, (0, 10), rollout(2, 1, Some(2)));
        let b = attempt("b", 2, (5, 15), rollout(1, 2, None));
        assert!(contradictions(&[entry(1, "b", 2), entry(2, "a", 1)], &[a, b]).is_empty());
    }

    #[test]
    fn what_came_later_may_not_stand_before() {
        let a = attempt("a", 1, (0, 3), rollout(2, 1, Some(2)));
        let b = attempt("b", 2, (5, 15), rollout(1, 2, None));
        only(&contradictions(&[entry(1, "b", 2), entry(2, "a", 1)], &[a, b]), "stands after");
    }

    #[test]
    fn lost_doubled_and_invented_edits_are_found() {
        let a = attempt("a", 1, (0, 3), rollout(1, 1, None));
        only(&contradictions(&[], std::slice::from_ref(&a)), "is lost");
        let twice = [entry(1, "a", 1), entry(2, "a", 1)];
        assert!(contradictions(&twice, std::slice::from_ref(&a)).iter().any(|f| f.contains("twice")));
        only(&contradictions(&[entry(1, "x", 1)], &[]), "by nobody");
    }

    #[test]
    fn an_answer_must_be_what_the_edit_made() {
        let a = attempt("a", 1, (0, 3), rollout(2, 1, None));
        only(&contradictions(&[entry(1, "a", 1)], &[a]), "was told");
        let refused = attempt("a", 1, (0, 3), Told::Refused(Code::Aborted));
        assert!(contradictions(&[entry(1, "a", 1)], &[refused])[0].contains("but happened"));
    }

    #[test]
    fn a_refusal_needs_a_state_that_refuses() {
        let a = attempt("a", 1, (0, 3), rollout(1, 1, None));
        let history = [entry(1, "a", 1)];
        let again = |time| attempt("b", 1, time, Told::Refused(Code::FailedPrecondition));
        assert!(contradictions(&history, &[a.clone(), again((5, 6))]).is_empty());
        assert!(contradictions(&history, &[a.clone(), again((1, 2))]).is_empty());
        let early = Attempt { began: Duration::from_millis(10), ended: Duration::from_millis(11), ..a };
        only(&contradictions(&history, &[early, again((5, 6))]), "for no reason");
    }
}
