//! Which `const fn` have to stay constant.
//!
//! A switch is read when the program runs, so it cannot be in what the compiler evaluates. A
//! `const fn` that no constant calls is an ordinary function as well, and is made one.

use std::collections::HashSet;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit::{self, Visit};

/// A function as it is called: the type, where it is named, and the function.
type Call = (Option<String>, String);

/// The functions that constants call, by names.
#[derive(Debug, Default)]
pub struct Constants {
    called: HashSet<Call>,
    /// `const fn` that can be made ordinary ones: the type, the name, the body.
    open: Vec<(Option<String>, String, TokenStream)>,
    owner: Option<String>,
    /// The file is not rewritten: its functions stay as they are.
    fixed: bool,
}

impl Constants {
    /// Looks at a file. `rewritten` says whether its functions may be made ordinary ones.
    pub fn look_at(&mut self, file: &syn::File, rewritten: bool) {
        self.fixed = !rewritten;
        self.visit_file(file);
    }

    /// Adds what is called by the functions that are called.
    pub fn close(&mut self) {
        loop {
            let open = std::mem::take(&mut self.open);
            let (stays, open): (Vec<_>, Vec<_>) = open
                .into_iter()
                .partition(|(owner, name, _)| self.stays(owner.as_deref(), name));
            self.open = open;
            if stays.is_empty() {
                return;
            }
            for (owner, _, body) in stays {
                self.note(body, owner.as_deref());
            }
        }
    }

    /// Whether a function of this name has to stay constant.
    #[must_use]
    pub fn stays(&self, owner: Option<&str>, name: &str) -> bool {
        self.called
            .iter()
            .any(|(of, called)| called == name && (of.is_none() || of.as_deref() == owner))
    }

    /// Notes whatever looks like a call.
    fn note(&mut self, tokens: TokenStream, owner: Option<&str>) {
        let mut before: [Option<TokenTree>; 4] = [None, None, None, None];
        for token in tokens {
            if let TokenTree::Group(group) = &token {
                if let (Delimiter::Parenthesis, Some(TokenTree::Ident(name))) =
                    (group.delimiter(), &before[3])
                {
                    self.called
                        .insert((qualifier(&before, owner), name.to_string()));
                }
                self.note(group.stream(), owner);
            }
            before.rotate_left(1);
            before[3] = Some(token);
        }
    }

    fn function(&mut self, sig: &syn::Signature, body: &syn::Block) {
        if sig.constness.is_some() {
            let owner = self.owner.clone();
            let body = body.to_token_stream();
            if self.fixed {
                self.note(body, owner.as_deref());
            } else {
                self.open.push((owner, sig.ident.to_string(), body));
            }
        }
    }

    fn constant(&mut self, tokens: impl ToTokens) {
        let owner = self.owner.clone();
        self.note(tokens.to_token_stream(), owner.as_deref());
    }
}

/// The type in front of the name of a function, if there is one and it is a type.
fn qualifier(before: &[Option<TokenTree>; 4], owner: Option<&str>) -> Option<String> {
    let colon = |token: &Option<TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    let [Some(TokenTree::Ident(of)), a, b, _] = before else {
        return None;
    };
    let of = of.to_string();
    if !colon(a) || !colon(b) || !of.starts_with(char::is_uppercase) {
        return None;
    }
    if of == "Self" {
        owner.map(str::to_owned)
    } else {
        Some(of)
    }
}

/// The name of a type without its parameters.
#[must_use]
pub fn type_name(of: &syn::Type) -> Option<String> {
    match of {
        syn::Type::Path(path) => Some(path.path.segments.last()?.ident.to_string()),
        syn::Type::Reference(reference) => type_name(&reference.elem),
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Constants {
    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let outer = std::mem::replace(&mut self.owner, type_name(&item.self_ty));
        visit::visit_item_impl(self, item);
        self.owner = outer;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.constant(&item.expr);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.constant(&item.expr);
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.constant(&item.expr);
    }

    fn visit_trait_item_const(&mut self, item: &'ast syn::TraitItemConst) {
        self.constant(item);
    }

    fn visit_expr_const(&mut self, expr: &'ast syn::ExprConst) {
        self.constant(&expr.block);
    }

    fn visit_expr_repeat(&mut self, expr: &'ast syn::ExprRepeat) {
        self.constant(&expr.len);
        self.visit_expr(&expr.expr);
    }

    fn visit_type_array(&mut self, of: &'ast syn::TypeArray) {
        self.constant(&of.len);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.constant(variant);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        // What is in a macro is not known: what it calls stays, if it makes constants.
        let text = mac.tokens.to_string();
        if text.contains("const ") {
            self.constant(&mac.tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_constant_calls_stays_and_what_that_calls_too() {
        let file = syn::parse_file(
            "const A: u8 = one() + Wide::two(); \
             const fn one() -> u8 { three() } \
             const fn three() -> u8 { 3 } \
             const fn four() -> u8 { 4 } \
             impl Wide { const fn two() -> u8 { Self::five() } const fn five() -> u8 { 5 } } \
             impl Narrow { const fn two() -> u8 { 2 } }",
        );
        let mut constants = Constants::default();
        constants.look_at(&file.unwrap(), true);
        constants.close();
        for (owner, name, stays) in [
            (None, "one", true),
            (None, "three", true),
            (None, "four", false),
            (Some("Wide"), "two", true),
            (Some("Wide"), "five", true),
            (Some("Narrow"), "two", false),
        ] {
            assert_eq!(constants.stays(owner, name), stays, "{owner:?} {name}");
        }
    }
}
