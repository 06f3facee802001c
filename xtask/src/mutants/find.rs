//! The mutants of one file: what can be changed in it, and into what.

use std::fmt;
use std::ops::Range;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Arm, Attribute, Block, Expr, Pat, Signature, Stmt};

use super::constants::{Constants, type_name};
use super::replace::{self, Aliases};

/// How much of an expression is in the name of a mutant, in characters.
const NAME_LEN: usize = 72;

/// One small change of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// The file, from the root of the project.
    pub file: String,
    /// The function, with its type.
    pub function: String,
    /// The line in the file, from 1.
    pub line: usize,
    /// What is changed into what.
    pub change: String,
    /// Which one of those in the function that are called alike, from 1.
    pub nth: usize,
}

/// The name of a mutant: it stays when lines move.
impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            function,
            change,
            nth,
            ..
        } = self;
        write!(f, "{file} {function}: {change}")?;
        if *nth > 1 {
            write!(f, " ({nth})")?;
        }
        Ok(())
    }
}

/// How the text of a mutant takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The range is an expression, and the text is another one.
    Expression,
    /// The range is empty and at the beginning of a body; the text is what is returned.
    Body,
    /// The range is empty and behind a pattern without a guard; the arm is passed over.
    Arm,
}

/// A place in a file that has mutants.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where, in bytes.
    pub at: Range<usize>,
    /// How they take their place.
    pub form: Form,
    /// The mutants, and the text of each.
    pub mutants: Vec<(Mutant, String)>,
}

/// What was found in a file.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Places that have mutants, the outer ones first.
    pub sites: Vec<Site>,
    /// Words that are taken out: `const`.
    pub removed: Vec<Range<usize>>,
    /// Mutants of functions that have to stay constant, where there can be no switch.
    pub constant: Vec<Mutant>,
}

/// Finds the mutants of a file.
#[must_use]
pub fn find(
    name: &str,
    source: &str,
    file: &syn::File,
    constants: &Constants,
    aliases: &Aliases,
) -> Found {
    let mut finder = Finder {
        file: name,
        source,
        constants,
        aliases,
        owner: None,
        function: None,
        is_constant: false,
        found: Found::default(),
    };
    finder.visit_file(file);
    let mut found = finder.found;
    number(&mut found);
    found
}

/// Tells mutants of one function apart that are called alike.
fn number(found: &mut Found) {
    let mut seen = std::collections::HashMap::new();
    for (mutant, _) in found.sites.iter_mut().flat_map(|site| &mut site.mutants) {
        let key = (mutant.function.clone(), mutant.change.clone());
        let count = seen.entry(key).or_insert(0);
        *count += 1;
        mutant.nth = *count;
    }
}

/// Whether a part of the source is not compiled, or only for tests.
#[must_use]
pub fn is_left_out(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        if path.is_ident("test") {
            return true;
        }
        let Ok(list) = attribute.meta.require_list() else {
            return false;
        };
        let text = list.tokens.to_string();
        path.is_ident("cfg")
            && ["test", "viommu_broken", "\"count-steps\""]
                .iter()
                .any(|word| {
                    text.split(|c: char| " (),=".contains(c))
                        .any(|part| part == *word)
                })
    })
}

struct Finder<'a> {
    file: &'a str,
    source: &'a str,
    constants: &'a Constants,
    aliases: &'a Aliases,
    owner: Option<String>,
    function: Option<String>,
    /// In a function that has to stay constant.
    is_constant: bool,
    found: Found,
}

impl Finder<'_> {
    fn text(&self, at: Range<usize>) -> &str {
        self.source.get(at).unwrap_or_default()
    }

    /// The text of an expression as it is named: on one line, and not too long.
    fn named(&self, at: Range<usize>) -> String {
        let words: Vec<&str> = self.text(at).split_whitespace().collect();
        let text = words.join(" ");
        if text.chars().count() <= NAME_LEN {
            return text;
        }
        let head: String = text.chars().take(NAME_LEN).collect();
        head + "…"
    }

    /// Notes a place, with what each mutant is called and its text.
    fn push(&mut self, at: Range<usize>, line: usize, form: Form, changes: Vec<(String, String)>) {
        let Some(function) = &self.function else {
            return;
        };
        let mutants = changes.into_iter().map(|(change, text)| {
            let mutant = Mutant {
                file: self.file.to_owned(),
                function: function.clone(),
                line,
                change,
                nth: 1,
            };
            (mutant, text)
        });
        let mutants: Vec<(Mutant, String)> = mutants.collect();
        if self.is_constant {
            let mutants = mutants.into_iter().map(|(mutant, _)| mutant);
            self.found.constant.extend(mutants);
        } else if !mutants.is_empty() {
            self.found.sites.push(Site { at, form, mutants });
        }
    }

    fn function(&mut self, attributes: &[Attribute], sig: &Signature, body: &Block) {
        if is_left_out(attributes) {
            return;
        }
        let name = match &self.owner {
            Some(owner) => format!("{owner}::{}", sig.ident),
            None => sig.ident.to_string(),
        };
        let is_constant = sig.constness.is_some()
            && self
                .constants
                .stays(self.owner.as_deref(), &sig.ident.to_string());
        if let Some(word) = &sig.constness
            && !is_constant
        {
            self.found.removed.push(word.span.byte_range());
        }
        let outer_function = self.function.replace(name);
        let outer_constant = std::mem::replace(&mut self.is_constant, is_constant);
        self.body(sig, body);
        self.visit_block(body);
        self.function = outer_function;
        self.is_constant = outer_constant;
    }

    fn body(&mut self, sig: &Signature, body: &Block) {
        if body.stmts.is_empty() {
            return;
        }
        let open = body.brace_token.span.open();
        let begin = open.byte_range().end;
        let whole = body.brace_token.span.join().byte_range();
        let inside = self.text(begin..whole.end - 1).trim().to_owned();
        let values = replace::of_body(&sig.output, self.aliases);
        let changes = values.into_iter().filter(|value| *value != inside);
        let changes = changes.map(|value| (format!("body -> `{value}`"), value));
        let line = sig.ident.span().start().line;
        self.push(begin..begin, line, Form::Body, changes.collect());
    }

    fn binary(&mut self, binary: &syn::ExprBinary) {
        let Some((op, others)) = replace::of_operator(&binary.op) else {
            return;
        };
        if replace::has_let(&binary.left) || replace::has_let(&binary.right) {
            return;
        }
        let at = binary.span().byte_range();
        let left = self.text(binary.left.span().byte_range()).to_owned();
        let right = self.text(binary.right.span().byte_range()).to_owned();
        let named = self.named(at.clone());
        let changes = others.iter().map(|other| {
            let change = format!("`{op}` -> `{other}` in `{named}`");
            (change, format!("({left}) {other} ({right})"))
        });
        let line = binary.op.span().start().line;
        self.push(at, line, Form::Expression, changes.collect());
    }

    fn unary(&mut self, unary: &syn::ExprUnary) {
        let Some(op) = replace::is_left_out(&unary.op) else {
            return;
        };
        if matches!(&*unary.expr, Expr::Lit(_)) {
            return;
        }
        let at = unary.span().byte_range();
        let operand = self.text(unary.expr.span().byte_range()).to_owned();
        let change = format!("no `{op}` in `{}`", self.named(at.clone()));
        let line = unary.span().start().line;
        self.push(at, line, Form::Expression, vec![(change, operand)]);
    }

    /// `matches!` says yes or no, and is the only macro that is looked at.
    fn matches(&mut self, mac: &syn::Macro) {
        if mac.path.is_ident("matches") {
            let at = mac.span().byte_range();
            let change = format!("not `{}`", self.named(at.clone()));
            let text = format!("!{}", self.text(at.clone()));
            let line = mac.span().start().line;
            self.push(at, line, Form::Expression, vec![(change, text)]);
        }
    }

    fn arms(&mut self, arms: &[Arm]) {
        let has_rest = arms
            .iter()
            .any(|arm| arm.guard.is_none() && takes_all(&arm.pat));
        for arm in arms.iter().filter(|arm| !is_left_out(&arm.attrs)) {
            let pattern = arm.pat.span().byte_range();
            let named = self.named(pattern.clone());
            let line = arm.pat.span().start().line;
            if let Some((_, guard)) = &arm.guard {
                if replace::has_let(guard) {
                    continue;
                }
                let at = guard.span().byte_range();
                let guard = self.named(at.clone());
                let changes = ["true", "false"]
                    .map(|value| (format!("guard `{guard}` -> `{value}`"), value.to_owned()));
                self.push(at, line, Form::Expression, changes.into());
            } else if has_rest && !takes_all(&arm.pat) {
                let change = format!("no arm `{named}`");
                let end = pattern.end;
                self.push(end..end, line, Form::Arm, vec![(change, String::new())]);
            }
        }
    }
}

/// Whether a pattern takes whatever the patterns before it did not.
fn takes_all(pattern: &Pat) -> bool {
    match pattern {
        Pat::Wild(_) => true,
        Pat::Ident(ident) => {
            let is_variable =
                |name: String| name.starts_with(|c: char| c.is_lowercase() || c == '_');
            ident.subpat.is_none() && is_variable(ident.ident.to_string())
        }
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_left_out(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if is_left_out(&item.attrs) {
            return;
        }
        let outer = std::mem::replace(&mut self.owner, type_name(&item.self_ty));
        visit::visit_item_impl(self, item);
        self.owner = outer;
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let outer = self.owner.replace(item.ident.to_string());
        visit::visit_item_trait(self, item);
        self.owner = outer;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let outer = self.owner.take();
        self.function(&item.attrs, &item.sig, &item.block);
        self.owner = outer;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.attrs, &item.sig, body);
        }
    }

    fn visit_stmt(&mut self, stmt: &'ast Stmt) {
        match stmt {
            Stmt::Local(local) if is_left_out(&local.attrs) => {}
            Stmt::Macro(stmt) if stmt.semi_token.is_none() => self.matches(&stmt.mac),
            Stmt::Macro(_) => {}
            _ => visit::visit_stmt(self, stmt),
        }
    }

    fn visit_expr(&mut self, expr: &'ast Expr) {
        if is_left_out(attributes(expr)) {
            return;
        }
        match expr {
            Expr::Binary(binary) => self.binary(binary),
            Expr::Unary(unary) => self.unary(unary),
            Expr::Match(of) => self.arms(&of.arms),
            Expr::Macro(mac) => self.matches(&mac.mac),
            Expr::Const(_) => return,
            Expr::Repeat(repeat) => {
                self.visit_expr(&repeat.expr);
                return;
            }
            _ => {}
        }
        visit::visit_expr(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        if !is_left_out(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    // What the compiler evaluates, or only compares.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_item_enum(&mut self, _: &'ast syn::ItemEnum) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_trait_item_const(&mut self, _: &'ast syn::TraitItemConst) {}
    fn visit_pat(&mut self, _: &'ast Pat) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_generic_argument(&mut self, _: &'ast syn::GenericArgument) {}
    fn visit_generics(&mut self, _: &'ast syn::Generics) {}
    fn visit_macro(&mut self, _: &'ast syn::Macro) {}
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

/// The attributes of those expressions that have some in practice.
fn attributes(expr: &Expr) -> &[Attribute] {
    match expr {
        Expr::Block(inner) => &inner.attrs,
        Expr::Call(inner) => &inner.attrs,
        Expr::If(inner) => &inner.attrs,
        Expr::Match(inner) => &inner.attrs,
        Expr::MethodCall(inner) => &inner.attrs,
        Expr::Unsafe(inner) => &inner.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(source: &str) -> Vec<String> {
        let file = syn::parse_file(source).unwrap();
        let mut constants = Constants::default();
        constants.look_at(&file, true);
        constants.close();
        let found = find("a.rs", source, &file, &constants, &Aliases::new());
        let mutants = found.sites.iter().flat_map(|site| &site.mutants);
        mutants.map(|(mutant, _)| mutant.to_string()).collect()
    }

    #[test]
    fn operators_bodies_arms_and_guards_are_found() {
        let source = "impl<T> One<T> { fn f(&self) -> bool {\n match a {\n 1 => !b,\n \
                      x if x == 2 => matches!(c, D),\n _ => true,\n } } }";
        assert_eq!(
            changes(source),
            [
                "a.rs One::f: body -> `true`",
                "a.rs One::f: body -> `false`",
                "a.rs One::f: no arm `1`",
                "a.rs One::f: guard `x == 2` -> `true`",
                "a.rs One::f: guard `x == 2` -> `false`",
                "a.rs One::f: no `!` in `!b`",
                "a.rs One::f: `==` -> `!=` in `x == 2`",
                "a.rs One::f: not `matches!(c, D)`",
            ]
        );
    }

    #[test]
    fn those_called_alike_are_numbered() {
        let names = changes("fn f() { a += 1; b(c & d); b(c & d) }");
        let last = names.last().unwrap();
        assert_eq!(last, "a.rs f: `&` -> `|` in `c & d` (2)");
    }

    #[test]
    fn tests_constants_macros_and_let_have_none() {
        let source = "const A: u8 = 1 + 2; static B: u8 = 3 | 4; \
                      #[cfg(test)] mod tests { fn f() { a == b; } } \
                      #[cfg(any(test, feature = \"count-steps\"))] fn g() { a == b; } \
                      fn h(a: [u8; 1 + 1]) { debug_assert!(a == b); const { 1 + 1 }; [0; 1 + 2]; \
                      #[cfg(viommu_broken)] if a == b { return; } \
                      if let Some(a) = b && c {} }";
        assert_eq!(changes(source), ["a.rs h: body -> `()`"]);
    }

    #[test]
    fn a_function_that_a_constant_needs_is_counted_apart() {
        let source = "const A: u8 = f(1); const fn f(a: u8) -> u8 { a + 2 }";
        let file = syn::parse_file(source).unwrap();
        let mut constants = Constants::default();
        constants.look_at(&file, true);
        constants.close();
        let found = find("a.rs", source, &file, &constants, &Aliases::new());
        assert!(found.sites.is_empty() && found.removed.is_empty());
        assert_eq!(found.constant.len(), 4);
    }
}
