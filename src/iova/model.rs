//! `Space` against a model with one cell per granule, which knows nothing of ranges, and its tree
//! against a naive recomputation.

use alloc::vec;
use alloc::vec::Vec;
use core::iter::once;

use proptest::prelude::*;

use super::node::{NIL, State};
use super::{IovaError, Slot, Space, Wish};
use crate::address::{Iova, IovaRange};

const G: u64 = 0x1000;
/// Of these the first and the last are not usable.
const CELLS: u64 = 96;

pub(super) fn range(start: u64, end: u64) -> IovaRange {
    IovaRange::new(Iova(start), Iova(end)).unwrap()
}

/// Granules `first..=last`.
fn granules(first: u64, last: u64) -> IovaRange {
    range(first * G, last * G + G - 1)
}

/// Checks everything that has to hold inside, by the slowest means.
pub(super) fn check<V: Copy>(space: &Space<V>, granule: u64, margin: u64, usable: IovaRange) {
    let (tree, classes, holes) = space.parts();
    let mut in_order = vec![];
    // (node, its children done?)
    let mut stack = vec![(tree.root(), false)];
    while let Some((index, done)) = stack.pop() {
        if index == NIL {
            continue;
        }
        if done {
            in_order.push(index);
            continue;
        }
        let (left, right) = tree.slab.children(index);
        stack.push((right, false));
        stack.push((index, true));
        stack.push((left, false));
    }
    let mut before: Option<u64> = None;
    for index in &in_order {
        let node = tree.slab.at(*index);
        let start = tree.slab.start(*index);
        let gap = match before {
            Some(end) => {
                assert!(end < start, "order");
                u128::from(start) - u128::from(end) - 1
            }
            None => u128::from(start - usable.start().0) + u128::from(margin),
        };
        let gap = u32::try_from(gap / u128::from(granule)).unwrap_or(u32::MAX);
        assert_eq!(node.gap, gap, "gap");
        before = Some(node.end);
        assert!(matches!(node.state, State::Used | State::Cached));
        let len = (node.end - start) / granule + 1;
        assert!(node.class == 0 || u64::from(node.class) == len && len <= 64);
        if node.state == State::Cached {
            assert_ne!(node.class, 0);
            assert!(
                !holes
                    .iter()
                    .any(|hole| hole.overlaps(&range(start, node.end)))
            );
        }
    }
    // What is kept has a margin on both sides.
    for pair in in_order.windows(2) {
        let (low, high) = (tree.slab.at(pair[0]), tree.slab.at(pair[1]));
        if low.state == State::Cached || high.state == State::Cached {
            assert!(u64::from(high.gap) * granule >= margin, "margin");
        }
    }
    /// Height and largest gap.
    fn subtree<V: Copy>(space: &Space<V>, index: u32) -> (u8, u32) {
        if index == NIL {
            return (0, 0);
        }
        let node = space.parts().0.slab.at(index);
        let (left, right) = space.parts().0.slab.children(index);
        let (left, right) = (subtree(space, left), subtree(space, right));
        assert!(left.0.abs_diff(right.0) <= 1, "balance");
        let height = left.0.max(right.0) + 1;
        let max_gap = left.1.max(right.1).max(node.gap);
        assert_eq!((node.height, node.max_gap), (height, max_gap));
        (height, max_gap)
    }
    subtree(space, tree.root());
    assert_eq!(tree.top(), in_order.last().copied().unwrap_or(NIL));
    // Every node is somewhere, once.
    let mut seen = vec![0_u32; tree.slab.len()];
    let mut listed = 0;
    let mut kept = 0;
    for class in 0..=64 {
        for index in classes.list(tree, class) {
            let node = tree.slab.at(index);
            assert_eq!(usize::from(node.class), class);
            match node.state {
                State::Cached => kept += 1,
                State::Dead => seen[index as usize] += 1,
                state => panic!("{state:?} is kept"),
            }
            listed += 1;
        }
    }
    assert_eq!(listed, classes.listed());
    let mut used = 0;
    for index in in_order {
        seen[index as usize] += 1;
        match tree.slab.at(index).state {
            State::Cached => kept -= 1,
            _ => {
                used += 1;
                let mut piece = tree.slab.at(index).link;
                while piece != NIL {
                    assert_eq!(tree.slab.at(piece).state, State::Piece);
                    seen[piece as usize] += 1;
                    piece = tree.slab.at(piece).link;
                }
            }
        }
    }
    assert_eq!((kept, used), (0, space.len()));
    for index in tree.slab.free_list() {
        assert_eq!(tree.slab.at(index).state, State::Free);
        seen[index as usize] += 1;
    }
    assert!(seen.iter().all(|times| *times == 1), "lost or shared nodes");
}

#[derive(Clone, Debug)]
struct Live {
    number: u32,
    slot: Slot,
    range: IovaRange,
    value: u64,
    pieces: Vec<(IovaRange, u64)>,
}

/// What is in use, cell by cell, and what was given for it.
struct Model {
    /// The number of the range that uses the cell.
    used: [Option<u32>; CELLS as usize],
    is_hole: [bool; CELLS as usize],
    margin: u64,
    live: Vec<Live>,
    next: u32,
}

impl Model {
    /// Whether an allocation of these cells keeps all rules.
    fn is_legal(&self, start: u64, len: u64, align: u64, limit: u64, boundary: u64) -> bool {
        let end = start + len - 1;
        let apart = start.saturating_sub(self.margin)..=(end + self.margin).min(CELLS - 1);
        start >= 1
            && end <= CELLS - 2
            // The limit is an address; the range ends with a whole granule.
            && end * G + G - 1 <= limit
            && start.is_multiple_of(align)
            && (boundary == 0 || (start..end).all(|cell| (cell + 1) % boundary != 0))
            && !(start..=end).any(|cell| self.is_hole[cell as usize])
            && self.first_used(apart).is_none()
    }

    fn nodes(&self) -> usize {
        self.live.iter().map(|live| 1 + live.pieces.len()).sum()
    }

    fn fill(&mut self, range: IovaRange, used: Option<u32>) {
        for at in range.start().0 / G..=range.end().0 / G {
            self.used[at as usize] = used;
        }
    }

    fn add(&mut self, slot: Slot, range: IovaRange, value: u64) {
        let number = self.next;
        self.next += 1;
        self.fill(range, Some(number));
        self.live.push(Live {
            number,
            slot,
            range,
            value,
            pieces: vec![],
        });
    }

    /// The number of whoever uses the first used cell that `cells` comes across.
    fn first_used(&self, mut cells: impl Iterator<Item = u64>) -> Option<u32> {
        cells.find_map(|cell| self.used[cell as usize])
    }

    fn slot(&self, number: u32) -> Slot {
        self.live
            .iter()
            .find(|live| live.number == number)
            .unwrap()
            .slot
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc {
        len: u64,
        align: u64,
        limit: u64,
        boundary: u64,
    },
    Take {
        start: u64,
        len: u64,
    },
    Free(usize),
    FreeAgain(u32),
    Piece {
        which: usize,
        start: u64,
        len: u64,
    },
    Set(usize, u64),
    Ask {
        start: u64,
        len: u64,
    },
    /// First cells and lengths.
    Holes([(u64, u64); 3]),
}

fn step() -> impl Strategy<Value = Step> {
    let limit = prop_oneof![
        3 => Just(u64::MAX),
        2 => (0..CELLS).prop_map(|cell| cell * G + G - 1),
        1 => 0..CELLS * G,
    ];
    let boundary = prop_oneof![3 => Just(0_u64), 1 => (1_u32..6).prop_map(|log| 1 << log)];
    prop_oneof![
        8 => (1_u64..7, 0_u32..4, limit, boundary).prop_map(|(len, align, limit, boundary)| {
            let align = 1_u64 << align;
            Step::Alloc { len, align, limit, boundary }
        }),
        6 => (1_u64..4).prop_map(|len| {
            Step::Alloc { len, align: 1, limit: u64::MAX, boundary: 0 }
        }),
        1 => (8_u64..80).prop_map(|len| {
            Step::Alloc { len, align: 1, limit: u64::MAX, boundary: 0 }
        }),
        4 => (0..CELLS, 1_u64..6).prop_map(|(start, len)| Step::Take { start, len }),
        12 => any::<usize>().prop_map(Step::Free),
        1 => (0..CELLS as u32).prop_map(Step::FreeAgain),
        3 => (any::<usize>(), 0_u64..8, 1_u64..3)
            .prop_map(|(which, start, len)| Step::Piece { which, start, len }),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(which, value)| Step::Set(which, value)),
        3 => (0..CELLS, 1_u64..9).prop_map(|(start, len)| Step::Ask { start, len }),
        1 => proptest::array::uniform3((0..CELLS, 0_u64..4)).prop_map(Step::Holes),
    ]
}

/// Takes one step on both sides and compares what they say.
fn run(space: &mut Space<u64>, model: &mut Model, capacity: usize, step: Step) {
    match step {
        Step::Alloc {
            len,
            align,
            limit,
            boundary,
        } => {
            let wish = Wish {
                len: len * G,
                align: align * G,
                limit: Iova(limit),
                boundary: boundary * G,
            };
            let value = u64::from(model.next) << 8;
            match space.alloc(&wish, value) {
                Ok((slot, range)) => {
                    let start = range.start().0 / G;
                    assert_eq!(range, granules(start, start + len - 1));
                    assert!(
                        model.is_legal(start, len, align, limit, boundary),
                        "{range}"
                    );
                    model.add(slot, range, value);
                }
                Err(IovaError::Full) => assert_eq!(model.nodes(), capacity),
                Err(error) => {
                    assert_eq!(error, IovaError::Exhausted);
                    let fits = |s| model.is_legal(s, len, align, limit, boundary);
                    let fit = (1..CELLS - len.min(CELLS)).find(|start| fits(*start));
                    assert!(fit.is_none() || len > boundary && boundary != 0, "{fit:?}");
                }
            }
        }
        Step::Take { start, len } => {
            let end = start + len - 1;
            let value = u64::from(model.next) << 8 | 1;
            let got = space.take(granules(start, end), value);
            if start == 0 || end >= CELLS - 1 {
                assert_eq!(got, Err(IovaError::OutOfRange));
            } else if (start..=end).any(|cell| model.is_hole[cell as usize]) {
                assert!(matches!(got, Err(IovaError::Hole(_))), "{got:?}");
            } else if model.first_used(start..=end).is_some() {
                assert_eq!(got, Err(IovaError::InUse));
            } else if model.nodes() == capacity {
                assert_eq!(got, Err(IovaError::Full));
            } else {
                model.add(got.unwrap(), granules(start, end), value);
            }
        }
        Step::Free(which) if !model.live.is_empty() => {
            let live = model.live.swap_remove(which % model.live.len());
            model.fill(live.range, None);
            assert!(space.free(live.slot));
            assert!(!space.free(live.slot));
            assert_eq!(space.range(live.slot), None);
            assert_eq!(space.get(live.slot), None);
            assert_eq!(space.pieces(live.slot).count(), 0);
        }
        Step::FreeAgain(slot) => {
            let slot = Slot(slot);
            if model.live.iter().all(|live| live.slot != slot) {
                assert!(!space.free(slot));
                assert!(!space.set(slot, 0));
                let piece = space.push_pieces(slot, once((granules(1, 1), 0)));
                assert_eq!(piece, Err(IovaError::OutOfRange));
            }
        }
        Step::Piece { which, start, len } if !model.live.is_empty() => {
            let nodes = model.nodes();
            let which = which % model.live.len();
            let live = &mut model.live[which];
            let first = live.range.start().0 / G + start;
            let piece = granules(first, first + len - 1);
            let got = space.push_pieces(live.slot, once((piece, start)));
            if first + len - 1 > live.range.end().0 / G {
                assert_eq!(got, Err(IovaError::OutOfRange));
            } else if nodes == capacity {
                assert_eq!(got, Err(IovaError::Full));
            } else {
                assert_eq!(got, Ok(()));
                live.pieces.insert(0, (piece, start));
            }
        }
        Step::Set(which, value) if !model.live.is_empty() => {
            let which = which % model.live.len();
            let live = &mut model.live[which];
            assert!(space.set(live.slot, value));
            live.value = value;
        }
        Step::Ask { start, len } => {
            let end = (start + len).min(CELLS) - 1;
            let asked = granules(start, end);
            let found = model.live.iter().find(|live| live.range == asked);
            assert_eq!(space.find(asked), found.map(|live| live.slot));
            match space.overlap(asked) {
                Some(slot) => assert!(space.range(slot).unwrap().overlaps(&asked)),
                None => assert_eq!(model.first_used(start..=end), None),
            }
            // Cells of whoever also lies in the range asked for do not count.
            let inside: Vec<_> = (start..=end)
                .map(|cell| model.used[cell as usize])
                .collect();
            let outside = |cell: &u64| {
                let used = model.used[*cell as usize];
                used.is_some() && !inside.contains(&used)
            };
            let below = (0..start).rev().find(outside);
            let above = (end + 1..CELLS).find(outside);
            let slot = |cell: u64| model.slot(model.used[cell as usize].unwrap());
            assert_eq!(space.neighbours(asked), (below.map(slot), above.map(slot)));
        }
        Step::Holes(holes) => {
            // They may lie over what is in use.
            model.is_hole = [false; CELLS as usize];
            for (start, len) in holes {
                for cell in start..(start + len).min(CELLS) {
                    model.is_hole[cell as usize] = true;
                }
            }
            let mut ranges: Vec<IovaRange> = vec![];
            for cell in (0..CELLS).filter(|cell| model.is_hole[*cell as usize]) {
                match ranges.last_mut() {
                    Some(last) if last.end().0 + 1 == cell * G => {
                        *last = range(last.start().0, cell * G + G - 1);
                    }
                    _ => ranges.push(granules(cell, cell)),
                }
            }
            space.set_holes(ranges);
        }
        _ => {}
    }
}

fn play(margin: u64, capacity: usize, steps: Vec<Step>) {
    let usable = granules(1, CELLS - 2);
    let mut space = Space::new(usable, G, margin * G, capacity).unwrap();
    let mut model = Model {
        used: [None; CELLS as usize],
        is_hole: [false; CELLS as usize],
        margin,
        live: vec![],
        next: 0,
    };
    for step in steps {
        run(&mut space, &mut model, capacity, step);
        check(&space, G, margin * G, usable);
        model.live.sort_by_key(|live| live.range.start());
        let seen: Vec<_> = space.iter().collect();
        let expected: Vec<_> = model
            .live
            .iter()
            .map(|live| (live.slot, live.range, live.value))
            .collect();
        assert_eq!(seen, expected);
        for live in &model.live {
            assert_eq!(space.range(live.slot), Some(live.range));
            assert_eq!(space.get(live.slot), Some(live.value));
            assert_eq!(space.pieces(live.slot).collect::<Vec<_>>(), live.pieces);
        }
    }
}

proptest! {
    /// `PROPTEST_CASES` in the environment asks for more.
    #[test]
    fn agrees_with_a_granule_by_granule_model(
        margin in 0_u64..2,
        capacity in prop_oneof![3 => Just(64_usize), 1 => 1_usize..10],
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        play(margin, capacity, steps);
    }
}

#[test]
fn what_is_beside_is_found_as_everywhere_else() {
    let mut space = Space::new(range(G, 0xffff), G, G, 8).unwrap();
    let ranges = [5, 3, 9, 7].map(|page| range(page * G, page * G + 0xfff));
    let slots = ranges.map(|range| space.take(range, 1).unwrap());
    space.push_pieces(slots[3], once((ranges[3], 2))).unwrap();
    assert!(space.free(slots[1]));
    for near in [slots[0], slots[1], slots[2], slots[3], Slot::NONE] {
        for (i, at) in ranges.iter().enumerate() {
            let found = (i != 1).then_some(slots[i]);
            assert_eq!(space.find_near(near, *at), found, "{near:?} {i}");
            assert_eq!(space.find(*at), found);
        }
        let longer = range(5 * G, 7 * G - 1);
        assert_eq!(space.find_near(near, longer), None);
    }
    // Pages 6, 8, and nothing that is not certainly free: page 3 may be kept.
    assert_eq!(
        (space.free_below(slots[2]), space.free_below(slots[3])),
        (1, 1)
    );
    assert!(space.free_below(slots[0]) <= 5);
}

#[test]
fn a_value_is_changed_or_kept() {
    let mut space = Space::new(range(G, 0xffff), G, G, 2).unwrap();
    let slot = space.take(range(G, 0x1fff), 5).unwrap();
    assert!(space.update(slot, |value| Some(value + 1)));
    assert!(!space.update(slot, |_| None));
    assert_eq!(space.get(slot), Some(6));
    assert_eq!(space.remove(slot), Some(6));
    assert_eq!(space.remove(slot), None);
    assert!(!space.update(slot, |value| Some(value + 1)));
    assert!(!space.update(Slot::NONE, Some));
}
