export function AppPage({ name }: { name: string }) { return <p class="empty">{name}</p> }
