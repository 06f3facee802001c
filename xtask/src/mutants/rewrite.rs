//! A source file with all of its mutants in it, each behind a switch.
//!
//! The text changes by insertions alone, so that what is not changed stays as it is. Only one
//! mutant is on at a time: the text of a mutant has none of its own.

use std::ops::Range;

use super::find::{Form, Found};

/// A file with switches.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// Its text.
    pub text: String,
    /// Where the text of each mutant is, in bytes, by its number.
    pub places: Vec<(Range<usize>, u32)>,
    /// Where the whole of an expression with mutants is, and the numbers of these.
    pub wholes: Vec<(Range<usize>, Range<u32>)>,
}

impl Rewritten {
    /// The mutants that a complaint of the compiler about a range is due to.
    #[must_use]
    pub fn blamed(&self, range: &Range<usize>) -> Vec<u32> {
        let touches = |at: &Range<usize>| at.start <= range.start && range.end <= at.end;
        let place = self
            .places
            .iter()
            .filter(|(at, _)| touches(at))
            .min_by_key(|(at, _)| at.len());
        if let Some((_, mutant)) = place {
            return vec![*mutant];
        }
        let whole = self.wholes.iter().filter(|(at, _)| touches(at));
        let whole = whole.min_by_key(|(at, _)| at.len());
        whole.map_or_else(Vec::new, |(_, mutants)| mutants.clone().collect())
    }
}

/// What is put into the text.
struct Insertion {
    at: usize,
    /// What ends comes before what begins; of those that end, the inner one first.
    order: (bool, i64),
    text: String,
    /// Mutants, and where they are in the text.
    places: Vec<(Range<usize>, u32)>,
    /// The site that begins or ends here.
    site: Option<usize>,
}

/// Writes the mutants of a file into it. The first one has the number `first`; those that are not
/// `live` are left out, and keep their numbers.
#[must_use]
pub fn rewrite(source: &str, found: &Found, first: u32, live: &dyn Fn(u32) -> bool) -> Rewritten {
    let mut insertions = Vec::new();
    let mut number = first;
    let mut numbers = Vec::new();
    for (order, site) in (0..).zip(&found.sites) {
        let begin = number;
        let mut text = String::new();
        let mut places = Vec::new();
        for (_, replacement) in &site.mutants {
            if live(number) {
                let switch = format!("crate::mutants::on({number})");
                let (before, after) = match site.form {
                    Form::Expression if text.is_empty() => (format!("(if {switch} {{ "), " }"),
                    Form::Expression => (format!(" else if {switch} {{ "), " }"),
                    Form::Body => (format!(" if {switch} {{ return "), "; }"),
                    Form::Arm => (format!(" if !{switch}"), ""),
                };
                text.push_str(&before);
                let start = text.len();
                text.push_str(replacement);
                let is_arm = site.form == Form::Arm;
                let start = if is_arm { 0 } else { start };
                places.push((start..text.len(), number));
                text.push_str(after);
            }
            number += 1;
        }
        numbers.push(begin..number);
        if places.is_empty() {
            continue;
        }
        let site_number = Some(numbers.len() - 1);
        if site.form == Form::Expression {
            text.push_str(" else { ");
            insertions.push(Insertion {
                at: site.at.end,
                order: (false, -order),
                text: " })".into(),
                places: Vec::new(),
                site: site_number,
            });
        }
        insertions.push(Insertion {
            at: site.at.start,
            order: (true, order),
            text,
            places,
            site: site_number.filter(|_| site.form == Form::Expression),
        });
    }
    insertions.sort_by_key(|insertion| (insertion.at, insertion.order));
    assemble(&without(source, &found.removed), insertions, &numbers)
}

/// The text with blanks in some places.
fn without(source: &str, removed: &[Range<usize>]) -> String {
    let mut text = source.to_owned();
    for range in removed {
        text.replace_range(range.clone(), &" ".repeat(range.len()));
    }
    text
}

fn assemble(source: &str, insertions: Vec<Insertion>, numbers: &[Range<u32>]) -> Rewritten {
    let mut rewritten = Rewritten::default();
    let mut begun = vec![None; numbers.len()];
    let mut copied = 0;
    for insertion in insertions {
        let text = &mut rewritten.text;
        text.push_str(&source[copied..insertion.at]);
        copied = insertion.at;
        let start = text.len();
        text.push_str(&insertion.text);
        let places = insertion.places.into_iter();
        rewritten
            .places
            .extend(places.map(|(at, mutant)| (start + at.start..start + at.end, mutant)));
        if let Some(site) = insertion.site {
            match begun[site] {
                None => begun[site] = Some(start),
                Some(begin) => {
                    let whole = begin..text.len();
                    rewritten.wholes.push((whole, numbers[site].clone()));
                }
            }
        }
    }
    rewritten.text.push_str(&source[copied..]);
    rewritten
}

#[cfg(test)]
mod tests {
    use super::super::constants::Constants;
    use super::super::find::find;
    use super::super::replace::Aliases;
    use super::*;

    fn rewritten(source: &str, live: &dyn Fn(u32) -> bool) -> Rewritten {
        let file = syn::parse_file(source).unwrap();
        let found = find(
            "a.rs",
            source,
            &file,
            &Constants::default(),
            &Aliases::new(),
        );
        let rewritten = rewrite(source, &found, 1, live);
        syn::parse_file(&rewritten.text).unwrap();
        rewritten
    }

    #[test]
    fn nested_expressions_are_nested() {
        let text = rewritten("fn f() { g(a & b == c) }", &|number| number > 1).text;
        assert_eq!(
            text,
            "fn f() { g((if crate::mutants::on(2) { (a & b) != (c) } else { \
             (if crate::mutants::on(3) { (a) | (b) } else { a & b }) == c })) }"
        );
    }

    #[test]
    fn bodies_arms_guards_and_constants_are_rewritten() {
        let source = "const fn f() -> u8 { match a { 1 => 2, x if x.b() => 3, _ => 4 } }";
        assert_eq!(
            rewritten(source, &|_| true).text,
            "      fn f() -> u8 { if crate::mutants::on(1) { return 0; } \
             if crate::mutants::on(2) { return 1; } match a { \
             1 if !crate::mutants::on(3) => 2, \
             x if (if crate::mutants::on(4) { true } else if crate::mutants::on(5) { false } \
             else { x.b() }) => 3, _ => 4 } }"
        );
    }

    #[test]
    fn what_does_not_live_is_left_out() {
        let source = "fn f() { a += 1; }";
        assert_eq!(rewritten(source, &|_| false).text, source);
        assert_eq!(
            rewritten(source, &|number| number == 3).text,
            "fn f() { (if crate::mutants::on(3) { (a) *= (1) } else { a += 1 }); }"
        );
    }

    #[test]
    fn the_compiler_complains_about_the_inner_one() {
        let rewritten = rewritten("fn f() { g(a & b == c) }", &|number| number > 1);
        let at = |text: &str| {
            let start = rewritten.text.find(text).unwrap();
            start..start + text.len()
        };
        assert_eq!(rewritten.blamed(&at("(a & b) != (c)")), [2]);
        assert_eq!(rewritten.blamed(&at("(a) |")), [3]);
        assert_eq!(rewritten.blamed(&at("a & b }")), [3]);
        assert_eq!(rewritten.blamed(&at("== c })")), [2]);
        assert_eq!(rewritten.blamed(&at("fn f")), [0; 0]);
    }
}
