//! Lists that mostly have one element. A batch has thousands of them, and the first room that [`Vec`] makes is for four.

/// Adds an element; the first gets room for itself alone.
pub fn push<T>(list: &mut Vec<T>, element: T) {
    if list.is_empty() {
        list.reserve_exact(1);
    }
    list.push(element);
}

/// Adds elements; the first take over the room they have.
pub fn append<T>(list: &mut Vec<T>, mut more: Vec<T>) {
    if list.is_empty() {
        *list = more;
    } else {
        list.append(&mut more);
    }
}
