use proptest::prelude::*;

use super::*;
use crate::executor::Answer;

const LIMITS: Limits = Limits { rows: 100, seconds: f64::INFINITY };

/// A queue at a clock that stands still.
struct Fixture {
    queue: Queue,
    learned: Learned,
    meters: Meters,
    start: Instant,
    answers: Vec<Answer>,
}

impl Fixture {
    fn new() -> Self {
        let meters = Meters::new("ranker.onnx");
        let (queue, learned) = (Queue::default(), Learned::default());
        Self { queue, learned, meters, start: Instant::now(), answers: Vec::new() }
    }

    /// A millisecond per cell, and what one run costs more.
    fn learn(&mut self, fixed: u64) {
        for power in 0..8 {
            let cells = 1_usize << power;
            self.learned.record(cells, Duration::from_millis(fixed + cells as u64));
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// Rows of this width with a deadline after so many milliseconds.
    fn push(&mut self, width: usize, rows: usize, deadline: u64) -> u64 {
        let inputs = vec![Tensor { width, data: TensorData::F32(vec![0.0; width * rows]) }];
        let (reply, answer) = oneshot::channel();
        self.answers.push(answer);
        let (arrived, deadline) = (self.start, self.at(deadline));
        let job = Job { inputs, rows, cells: width * rows, arrived, deadline, share: 0.25, reply };
        self.queue.push(job, &self.meters)
    }

    fn add(&mut self, width: usize, rows: usize, deadline: u64) {
        self.push(width, rows, deadline);
    }

    /// Rows of the jobs of the next batch at this time.
    fn batch_at(&mut self, millis: u64, limits: Limits) -> Vec<usize> {
        let now = self.at(millis);
        let batch = self.queue.next_batch(limits, &self.learned, now, &self.meters);
        batch.iter().map(|job| job.rows).collect()
    }

    fn batch(&mut self) -> Vec<usize> {
        self.batch_at(0, LIMITS)
    }

    fn expired(&mut self, place: usize) -> bool {
        matches!(self.answers[place].try_recv(), Ok(Err(InferError::Expired { .. })))
    }
}

#[test]
fn what_waits_shares_a_run_in_the_order_of_arrival_up_to_the_row_limit() {
    let mut fixture = Fixture::new();
    [50, 20, 30, 1].into_iter().for_each(|rows| fixture.add(1, rows, 1000));
    assert_eq!(fixture.batch(), [50, 20, 30]);
    assert_eq!(fixture.batch(), [1]);
    assert_eq!(fixture.batch(), [0_usize; 0]);
}

#[test]
fn a_job_of_another_shape_neither_ends_a_batch_nor_starves() {
    let mut fixture = Fixture::new();
    for (width, rows) in [(4, 1), (7, 2), (4, 3), (7, 4)] {
        fixture.push(width, rows, 1000);
    }
    assert_eq!(fixture.batch(), [1, 3]);
    // What arrived before goes first, however much of another shape came since.
    (0..50).for_each(|_| fixture.add(4, 5, 1000));
    assert_eq!(fixture.batch(), [2, 4]);
}

#[test]
fn a_job_larger_than_any_batch_runs_alone() {
    let mut fixture = Fixture::new();
    [5000, 1].into_iter().for_each(|rows| fixture.add(1, rows, 1_000_000));
    assert_eq!(fixture.batch(), [5000]);
    assert_eq!(fixture.batch(), [1]);
}

#[test]
fn a_batch_ends_where_more_rows_no_longer_pay() {
    let mut fixture = Fixture::new();
    // Each row costs a millisecond and a run one more: 16 rows share it as well as any.
    fixture.learn(1);
    (0..20).for_each(|_| fixture.add(1, 1, 1000));
    assert_eq!(fixture.batch().len(), 16);
}

#[test]
fn the_neighbours_of_the_knee_are_tried_now_and_then() {
    let mut fixture = Fixture::new();
    fixture.learn(1);
    (0..4 * PROBE * 16).for_each(|_| fixture.add(1, 1, 100_000));
    let sizes: Vec<usize> = (0..2 * PROBE).map(|_| fixture.batch().len()).collect();
    let probes: Vec<_> = (1..).zip(&sizes).filter(|(_, size)| **size != 16).collect();
    assert_eq!(probes, [(PROBE, &8), (2 * PROBE, &32)]);
    // Jobs of which one is larger than the knee run alone, and two together when it is tried.
    let mut fixture = Fixture::new();
    fixture.learn(1);
    (0..2 * PROBE + 1).for_each(|_| fixture.add(1, 40, 100_000));
    let sizes: Vec<usize> = (0..2 * PROBE).map(|_| fixture.batch().len()).collect();
    assert_eq!(sizes.iter().position(|jobs| *jobs == 2), Some(2 * PROBE as usize - 1));
}

#[test]
fn a_batch_is_done_by_the_earliest_deadline_in_it() {
    let mut fixture = Fixture::new();
    fixture.learn(100);
    for deadline in [1000, 105, 1000, 1000, 1000, 1000, 1000, 1000] {
        fixture.push(1, 1, deadline);
    }
    assert_eq!(fixture.batch().len(), 5);
}

#[test]
fn a_caller_takes_no_run_that_is_too_long_for_its_thread() {
    let mut fixture = Fixture::new();
    fixture.learn(1);
    [3, 3, 9].into_iter().for_each(|rows| fixture.add(1, rows, 1000));
    let short = Limits { rows: 100, seconds: 0.005 };
    assert_eq!(fixture.batch_at(0, short), [3]);
    assert_eq!(fixture.batch_at(0, short), [3]);
    assert_eq!(fixture.batch_at(0, short), [0_usize; 0]);
    assert_eq!(fixture.batch(), [9]);
}

#[test]
fn what_expired_is_answered_and_not_run() {
    let mut fixture = Fixture::new();
    [(1, 10), (2, 1000)].into_iter().for_each(|(rows, deadline)| fixture.add(1, rows, deadline));
    assert_eq!(fixture.batch_at(10, LIMITS), [2]);
    assert!(fixture.expired(0) && !fixture.expired(1));
}

#[test]
fn what_cannot_be_done_in_time_makes_room_but_the_last_one_is_tried() {
    let mut fixture = Fixture::new();
    fixture.learn(50);
    [20, 20, 1000].into_iter().for_each(|deadline| fixture.add(1, 1, deadline));
    assert_eq!(fixture.batch(), [1]);
    assert!(fixture.expired(0) && fixture.expired(1) && !fixture.expired(2));
    fixture.push(1, 7, 20);
    assert_eq!(fixture.batch(), [7]);
}

#[test]
fn when_jobs_die_in_the_queue_the_newest_goes_first_until_none_has_died_for_a_while() {
    let mut fixture = Fixture::new();
    for (rows, deadline) in [(90, 10), (91, 1000), (92, 1000), (93, 1000), (94, 1000)] {
        fixture.push(1, rows, deadline);
    }
    assert_eq!(fixture.batch_at(10, LIMITS), [94]);
    assert_eq!(fixture.batch_at(20, LIMITS), [93]);
    assert_eq!(fixture.batch_at(110, LIMITS), [91], "100 ms later the order is as before");
    assert_eq!(fixture.batch_at(120, LIMITS), [92]);
}

#[test]
fn a_job_that_nobody_waits_for_is_not_run() {
    let mut fixture = Fixture::new();
    [1, 2].into_iter().for_each(|rows| fixture.add(1, rows, 1000));
    fixture.answers.remove(0);
    assert_eq!(fixture.batch(), [2]);
}

#[derive(Debug, Clone)]
enum Does {
    Push { width: usize, rows: usize, deadline: u64 },
    Remove(usize),
    Park(usize),
    Run,
}

fn does() -> impl Strategy<Value = Does> {
    let push = (1_usize..4, 1_usize..60, 0_u64..200);
    prop_oneof![
        4 => push.prop_map(|(width, rows, deadline)| Does::Push { width, rows, deadline }),
        1 => (0_usize..40).prop_map(Does::Remove),
        1 => (0_usize..40).prop_map(Does::Park),
        2 => Just(Does::Run),
    ]
}

proptest! {
    #[test]
    fn every_job_leaves_the_queue_once_and_the_counts_agree(actions in prop::collection::vec(does(), 1..60)) {
        let mut fixture = Fixture::new();
        fixture.learn(2);
        let mut waiting = std::collections::BTreeSet::new();
        let mut left = 0;
        for (clock, action) in (0..).step_by(3).zip(actions) {
            match action {
                Does::Push { width, rows, deadline } => {
                    waiting.insert(fixture.push(width, rows, clock + deadline));
                }
                Does::Remove(place) => {
                    let removed = fixture.queue.remove(place as u64, &fixture.meters).is_some();
                    prop_assert_eq!(removed, waiting.remove(&(place as u64)));
                    left += usize::from(removed);
                }
                Does::Park(place) => {
                    prop_assert_eq!(fixture.queue.park(place as u64), waiting.contains(&(place as u64)));
                }
                Does::Run => {
                    let batch = fixture.queue.next_batch(LIMITS, &fixture.learned, fixture.at(clock), &fixture.meters);
                    prop_assert!(batch.len() == 1 || batch.iter().map(|job| job.rows).sum::<usize>() <= 100);
                    prop_assert!(batch.iter().all(|job| job.deadline > fixture.at(clock)));
                    prop_assert!(!batch.is_empty() || fixture.queue.rows() == 0);
                    let before = waiting.len();
                    waiting.retain(|place| fixture.queue.holds(*place));
                    let expired = (0..fixture.answers.len()).filter(|i| fixture.expired(*i)).count();
                    prop_assert_eq!(before - waiting.len(), batch.len() + expired);
                    left += batch.len() + expired;
                }
            }
            prop_assert_eq!(fixture.queue.rows() == 0, waiting.is_empty());
            prop_assert!(fixture.queue.parked() <= waiting.len());
            prop_assert!((fixture.queue.seconds() - 0.25 * waiting.len() as f64).abs() < 1e-9);
        }
        prop_assert_eq!(left + waiting.len(), fixture.answers.len());
    }
}
