// A link's code stands behind the #: browsers do not send it, so it is in no log. It is used once and taken away here.
const code = location.hash.slice(1);
const words = {
  "?wrong": "That is not the token, or the link has been used.",
  "?locked": "Too many wrong tokens. Try again in a minute.",
};
document.getElementById("said").textContent = words[location.search] ?? "";
if (code) {
  history.replaceState(null, "", "/login");
  document.getElementById("token").value = code;
  document.getElementById("form").submit();
}
