//! What the device may translate, for all that it has told: the most that is consistent with it.
//!
//! A MAP may be in force as soon as the device has it, and is so until the device says that it was
//! refused, or that a later UNMAP of it was carried out. One that was never answered may be
//! carried out at any time, after an UNMAP too. A device that says OK and does nothing is beyond
//! all help: what it has said counts.

use crate::model::journal::{Note, Told};
use crate::model::requests::{Request, Seen};
use crate::model::spec::status;

/// A request of which the effect may be in force.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: usize,
    request: Request,
    /// The device has given it back, and it is in force for all that is known; else it may be
    /// carried out at any time.
    confirmed: bool,
}

/// The judge of what is used again.
#[derive(Default)]
pub struct Book {
    maps: Vec<Entry>,
    attaches: Vec<Entry>,
}

impl Book {
    /// Reads what the device has noted. `seen` is the list that the numbers belong to.
    pub fn read(&mut self, journal: &[Note], seen: &[Seen]) {
        for note in journal {
            match *note {
                Note::Seen(number) => self.seen(number, seen[number].request),
                Note::Told(number, told) => self.told(number, seen[number].request, told),
                Note::Reset => {
                    let all = self.maps.iter_mut().chain(&mut self.attaches);
                    all.for_each(|entry| entry.confirmed = true);
                }
            }
        }
    }

    fn seen(&mut self, number: usize, request: Request) {
        let entry = Entry {
            number,
            request,
            confirmed: false,
        };
        match request {
            Request::Map { .. } => {
                for other in &self.maps {
                    assert!(
                        !is_in_the_way(other.request, request),
                        "used again although the device may translate it: {request:x?}, {other:x?}"
                    );
                }
                self.maps.push(entry);
            }
            Request::Attach { .. } => self.attaches.push(entry),
            _ => {}
        }
    }

    fn told(&mut self, number: usize, request: Request, told: Told) {
        let ok = told == Told::Status(status::OK);
        match request {
            _ if told == Told::Unclear => {
                // It was given back: carried out or not, but not later.
                settle(&mut self.maps, number, true);
                settle(&mut self.attaches, number, true);
            }
            Request::Map { .. } => settle(&mut self.maps, number, ok),
            Request::Attach {
                domain, endpoint, ..
            } => {
                settle(&mut self.attaches, number, ok);
                if ok {
                    // It has moved.
                    self.attaches.retain(|entry| match entry.request {
                        Request::Attach {
                            domain: from,
                            endpoint: who,
                            ..
                        } => !(entry.confirmed && who == endpoint && from != domain),
                        _ => false,
                    });
                }
            }
            Request::Detach { domain, endpoint } => {
                let absent = [status::NOENT, status::INVAL].map(Told::Status);
                if ok || absent.contains(&told) {
                    self.attaches.retain(|entry| match entry.request {
                        Request::Attach {
                            domain: from,
                            endpoint: who,
                            ..
                        } => {
                            let before = entry.confirmed && entry.number < number;
                            !(before && (who, from) == (endpoint, domain))
                        }
                        _ => false,
                    });
                }
            }
            Request::Unmap { domain, start, end } if ok => {
                self.maps.retain(|entry| match entry.request {
                    Request::Map {
                        domain: of,
                        start: first,
                        end: last,
                        ..
                    } => {
                        let before = entry.confirmed && entry.number < number;
                        !(before && of == domain && start <= first && last <= end)
                    }
                    _ => false,
                });
            }
            _ => {}
        }
        self.forget_dead_domains();
    }

    /// A domain without an endpoint is none, and has no mappings.
    fn forget_dead_domains(&mut self) {
        let attaches = &self.attaches;
        self.maps.retain(|entry| match entry.request {
            Request::Map { domain, .. } => !entry.confirmed || is_alive(attaches, domain),
            _ => false,
        });
    }

    /// Whether an endpoint may reach the page.
    pub fn reaches(&self, page: u64) -> bool {
        self.maps.iter().any(|entry| match entry.request {
            Request::Map {
                domain,
                start,
                end,
                phys,
                ..
            } => {
                let covers = phys <= page && page - phys <= end - start;
                covers && is_alive(&self.attaches, domain)
            }
            _ => false,
        })
    }
}

/// Whether an endpoint may be in the domain.
fn is_alive(attaches: &[Entry], domain: u32) -> bool {
    let is_in =
        |entry: &Entry| matches!(entry.request, Request::Attach { domain: of, .. } if of == domain);
    attaches.iter().any(is_in)
}

/// The device has said what became of a request.
fn settle(list: &mut Vec<Entry>, number: usize, ok: bool) {
    if ok {
        let found = list.iter_mut().filter(|entry| entry.number == number);
        found.for_each(|entry| entry.confirmed = true);
    } else {
        list.retain(|entry| entry.number != number);
    }
}

/// Whether two MAPs are for the same addresses, without being the same.
fn is_in_the_way(one: Request, other: Request) -> bool {
    let (
        Request::Map {
            domain: a,
            start: first,
            end: last,
            ..
        },
        Request::Map {
            domain: b,
            start,
            end,
            ..
        },
    ) = (one, other)
    else {
        return false;
    };
    // A driver that does not know may say the same once more.
    one != other && a == b && first <= end && start <= last
}
